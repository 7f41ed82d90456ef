/* SPDX-License-Identifier: MIT */
/* What does it cost to give 256 MiB, or 1 MiB, to another process that is already there? */
#include "common.h"
#include "futex.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <tandem.h>
#include <unistd.h>

enum {
    LARGE = 256 << 20,
    SMALL = 1 << 20,
    SMALL_SHARE = 20, /* so many times as many of the small ones */
    TRANSFERS_MAX = 1024,
};

enum { MS_LARGE, MS_SMALL, METRICS };

typedef struct transfer transfer;

/* Gives what is in t->source to the other process, where take waits for it and returns where it is. */
typedef struct payload_kind {
    void (*open)(transfer *t);  /* before the processes begin; may be NULL */
    void (*close)(transfer *t); /* may be NULL */
    void (*give)(transfer *t);
    const char *(*take)(transfer *t);
    bool alone; /* no other process: give does it all, and take only looks */
} payload_kind;

/* What both processes see. */
struct transfer {
    const payload_kind *kind;
    size_t size;
    long n;
    char *source; /* private memory of the giver, and the taker's own at the same address; pages present */
    char *sink;   /* likewise */
    char *shared; /* `size` bytes that both see, pages present */
    int fd[2];
    td_connection *connection[2];
    td_queue *queue;
    void *block; /* of the shared heap */
    pid_t giver;
    _Atomic uint32_t there, done; /* futexes: the number of the payload */
    int64_t got;                  /* when the taker had it */
    double ms[TRANSFERS_MAX];
};

/* --- the measurement -------------------------------------------------------------------------------------------- */

/* The first, the last and a middle word tell which payload it is. */
static void mark(char *payload, size_t size, uint64_t number)
{
    memcpy(payload, &number, 8);
    memcpy(payload + size / 2, &number, 8);
    memcpy(payload + size - 8, &number, 8);
}

static void check(const char *payload, size_t size, uint64_t number)
{
    uint64_t words[3];
    memcpy(&words[0], payload, 8);
    memcpy(&words[1], payload + size / 2, 8);
    memcpy(&words[2], payload + size - 8, 8);
    if (words[0] != number || words[1] != number || words[2] != number)
        bench_fail("another payload came");
}

static void give_all(transfer *t)
{
    memset(t->source, 1, t->size);
    memset(t->sink, 1, t->size);
    t->giver = getpid();
    for (uint32_t i = 1; i <= (uint32_t)t->n; i++) {
        mark(t->source, t->size, i);
        bench_idle(100000); /* the other one waits, like somebody who expects a payload now and then */
        int64_t begin = bench_now();
        t->kind->give(t);
        int64_t end = bench_now();
        if (t->kind->alone)
            check(t->kind->take(t), t->size, i);
        else
            bench_await(&t->done, i);
        t->ms[i - 1] = (double)((t->kind->alone ? end : t->got) - begin) / 1e6;
    }
}

static void take_all(transfer *t)
{
    memset(t->sink, 1, t->size);
    for (uint32_t i = 1; i <= (uint32_t)t->n; i++) {
        const char *payload = t->kind->take(t);
        t->got = bench_now();
        check(payload, t->size, i);
        bench_hand_over(&t->done, i);
    }
}

static void take_part(int index, void *argument)
{
    transfer *t = argument;
    bench_pin_to(index);
    if (index == 0)
        give_all(t);
    else if (!t->kind->alone)
        take_all(t);
}

/* Not shared: each process gets its own. */
static char *reserve(size_t size)
{
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        bench_fail("mmap: %s", strerror(errno));
    return memory;
}

static double payload_ms(const payload_kind *kind, size_t size, long n)
{
    transfer *t = bench_share(sizeof *t);
    t->kind = kind;
    t->size = size;
    t->n = n < TRANSFERS_MAX ? n : TRANSFERS_MAX;
    t->source = reserve(size);
    t->sink = reserve(size);
    t->shared = bench_share(size);
    memset(t->shared, 1, size);
    if (kind->open)
        kind->open(t);
    bench_team_run(2, true, take_part, t);
    double ms = bench_median(t->ms, (size_t)t->n);
    if (kind->close)
        kind->close(t);
    bench_unshare(t->shared, size);
    munmap(t->source, size);
    munmap(t->sink, size);
    bench_unshare(t, sizeof *t);
    return ms;
}

static size_t measure_payload(const payload_kind *kind, long n, double *values)
{
    values[MS_LARGE] = payload_ms(kind, LARGE, n);
    values[MS_SMALL] = payload_ms(kind, SMALL, n * SMALL_SHARE);
    return METRICS;
}

#define PAYLOAD_OP(NAME)                                 \
    static size_t NAME(long n, double *values)           \
    {                                                    \
        return measure_payload(&NAME##_kind, n, values); \
    }

/* --- Tandem ----------------------------------------------------------------------------------------------------- */

static void queue_open(transfer *t, size_t item_size)
{
    t->queue = td_queue_new(.item_size = item_size, .capacity = 1, .shared = true);
    if (t->queue == NULL)
        bench_fail("td_queue_new: %s", td_last_message());
}

/* The block has its pages, and is the giver's again when the taker has said that it has seen it. */
static void block_open(transfer *t)
{
    queue_open(t, sizeof(void *));
    t->block = td_shared_alloc(t->size);
    if (t->block == NULL)
        bench_fail("td_shared_alloc: %s", td_last_message());
    memset(t->block, 1, t->size);
}

static void block_close(transfer *t)
{
    td_shared_free(t->block);
    td_queue_free(t->queue);
}

static void block_give(transfer *t)
{
    uint64_t number;
    memcpy(&number, t->source, 8);
    mark(t->block, t->size, number);
    if (td_queue_put_shared(t->queue, t->block) < 0)
        bench_fail("td_queue_put_shared: %s", td_last_message());
}

static const char *block_take(transfer *t)
{
    void *block;
    if (td_queue_get_shared(t->queue, &block) < 0)
        bench_fail("td_queue_get_shared: %s", td_last_message());
    return block;
}

static void copy_open(transfer *t)
{
    queue_open(t, t->size);
}

static void copy_close(transfer *t)
{
    td_queue_free(t->queue);
}

static void copy_give(transfer *t)
{
    if (td_queue_put(t->queue, t->source) < 0)
        bench_fail("td_queue_put: %s", td_last_message());
}

static const char *copy_take(transfer *t)
{
    if (td_queue_get(t->queue, t->sink) < 0)
        bench_fail("td_queue_get: %s", td_last_message());
    return t->sink;
}

static void connection_open(transfer *t)
{
    if (td_pipe(&t->connection[1], &t->connection[0]) < 0)
        bench_fail("td_pipe: %s", td_last_message());
}

static void connection_close(transfer *t)
{
    td_connection_free(t->connection[0]);
    td_connection_free(t->connection[1]);
}

static void connection_give(transfer *t)
{
    if (td_send(t->connection[0], t->source, t->size) < 0)
        bench_fail("td_send: %s", td_last_message());
}

static const char *connection_take(transfer *t)
{
    size_t size;
    if (td_recv_into(t->connection[1], t->sink, t->size, &size) < 0 || size != t->size)
        bench_fail("td_recv_into: %s", td_last_message());
    return t->sink;
}

static const payload_kind connection_kind = {
    .open = connection_open, .close = connection_close, .give = connection_give, .take = connection_take
};
static const payload_kind block_kind = {
    .open = block_open, .close = block_close, .give = block_give, .take = block_take
};
static const payload_kind copy_kind = { .open = copy_open, .close = copy_close, .give = copy_give, .take = copy_take };
PAYLOAD_OP(block)
PAYLOAD_OP(copy)
PAYLOAD_OP(connection)

/* --- limits ----------------------------------------------------------------------------------------------------- */

static void one_copy_give(transfer *t)
{
    memcpy(t->sink, t->source, t->size);
}

static const char *one_copy_take(transfer *t)
{
    return t->sink;
}

static void announce(transfer *t)
{
    bench_hand_over(&t->there, atomic_load(&t->there) + 1);
}

static void await_announcement(transfer *t)
{
    bench_await(&t->there, atomic_load(&t->done) + 1);
}

/* Only the marks are written: the payload is in shared memory already. */
static void handover_give(transfer *t)
{
    uint64_t number;
    memcpy(&number, t->source, 8);
    mark(t->shared, t->size, number);
    announce(t);
}

static const char *handover_take(transfer *t)
{
    await_announcement(t);
    return t->shared;
}

static void copy_in_give(transfer *t)
{
    memcpy(t->shared, t->source, t->size);
    announce(t);
}

static const char *copy_both_take(transfer *t)
{
    await_announcement(t);
    memcpy(t->sink, t->shared, t->size);
    return t->sink;
}

static const payload_kind one_copy_kind = { .give = one_copy_give, .take = one_copy_take, .alone = true };
static const payload_kind handover_kind = { .give = handover_give, .take = handover_take };
static const payload_kind copy_in_kind = { .give = copy_in_give, .take = handover_take };
static const payload_kind copy_both_kind = { .give = copy_in_give, .take = copy_both_take };
PAYLOAD_OP(one_copy)
PAYLOAD_OP(handover)
PAYLOAD_OP(copy_in)
PAYLOAD_OP(copy_both)

/* --- the system's ways ------------------------------------------------------------------------------------------- */

static const char *vm_readv_take(transfer *t)
{
    struct iovec to = { t->sink, t->size }, from = { t->source, t->size };
    await_announcement(t);
    for (size_t done = 0; done < t->size;) {
        ssize_t n = process_vm_readv(t->giver, &to, 1, &from, 1, 0);
        if (n <= 0)
            bench_fail("process_vm_readv: %s", strerror(errno));
        done += (size_t)n;
        to = (struct iovec){ t->sink + done, t->size - done };
        from = (struct iovec){ t->source + done, t->size - done };
    }
    return t->sink;
}

static void pipe_open(transfer *t)
{
    if (pipe(t->fd) < 0)
        bench_fail("pipe: %s", strerror(errno));
}

static void wide_pipe_open(transfer *t)
{
    pipe_open(t);
    if (fcntl(t->fd[1], F_SETPIPE_SZ, SMALL) < 0)
        bench_fail("F_SETPIPE_SZ: %s", strerror(errno));
}

static void socket_open(transfer *t)
{
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, t->fd) < 0)
        bench_fail("socketpair: %s", strerror(errno));
}

static void fd_close(transfer *t)
{
    close(t->fd[0]);
    close(t->fd[1]);
}

static void fd_give(transfer *t)
{
    for (size_t done = 0; done < t->size;) {
        ssize_t n = write(t->fd[1], t->source + done, t->size - done);
        if (n <= 0)
            bench_fail("write: %s", strerror(errno));
        done += (size_t)n;
    }
}

static const char *fd_take(transfer *t)
{
    for (size_t done = 0; done < t->size;) {
        ssize_t n = read(t->fd[0], t->sink + done, t->size - done);
        if (n <= 0)
            bench_fail("read: %s", n < 0 ? strerror(errno) : "end of file");
        done += (size_t)n;
    }
    return t->sink;
}

static const payload_kind vm_readv_kind = { .give = announce, .take = vm_readv_take };
static const payload_kind fifo_kind = { .open = pipe_open, .close = fd_close, .give = fd_give, .take = fd_take };
static const payload_kind wide_kind = { .open = wide_pipe_open, .close = fd_close, .give = fd_give, .take = fd_take };
static const payload_kind stream_kind = { .open = socket_open, .close = fd_close, .give = fd_give, .take = fd_take };
PAYLOAD_OP(vm_readv)
PAYLOAD_OP(fifo)
PAYLOAD_OP(wide)
PAYLOAD_OP(stream)

/* --- the driver ------------------------------------------------------------------------------------------------- */

static const bench_op ops[] = {
    { "td-block", block },      { "td-copy", copy },      { "td-connection", connection },
    { "memcpy", one_copy },     { "handover", handover }, { "copy-in", copy_in },
    { "copy-both", copy_both }, { "readv", vm_readv },    { "pipe", fifo },
    { "pipe-wide", wide },      { "socket", stream },
};

static bench_server tandem_server, peers, python;

#define ROW(id, kind, server, op, name) BENCH_ROW(id, kind, server, op, 5, 3, name)

static bench_row rows[] = {
    ROW("memcpy", BENCH_LIMIT, &peers, "memcpy", "limit: one memcpy in one process, pages present"),
    ROW("handover", BENCH_LIMIT, &peers, "handover", "limit: in shared memory already, told by a futex"),
    ROW("copy-in", BENCH_LIMIT, &peers, "copy-in", "limit: shared memory, copied in"),
    ROW("copy-both", BENCH_LIMIT, &peers, "copy-both", "limit: shared memory, copied in, then out"),
    ROW("td-block", BENCH_TANDEM, &tandem_server, "td-block", "Tandem: block of the shared heap, by a queue"),
    ROW("td-copy", BENCH_TANDEM, &tandem_server, "td-copy", "Tandem td_queue, copied in, then out"),
    ROW("td-connection", BENCH_TANDEM, &tandem_server, "td-connection", "Tandem connection"),
    ROW("readv", BENCH_PEER, &peers, "readv", "process_vm_readv"),
    ROW("pipe", BENCH_PEER, &peers, "pipe", "pipe"),
    ROW("pipe-wide", BENCH_PEER, &peers, "pipe-wide", "pipe of 1 MiB"),
    ROW("socket", BENCH_PEER, &peers, "socket", "socketpair, stream"),
    ROW("python-queue", BENCH_PEER, &python, "payload-queue", "multiprocessing.Queue, bytes"),
    ROW("python-pipe", BENCH_PEER, &python, "payload-pipe", "Pipe, send_bytes"),
    ROW("python-shared", BENCH_PEER, &python, "payload-shared", "shared_memory, copied in, then out"),
};

static const bench_metric metrics[METRICS] = {
    [MS_LARGE] = { "ms_256MiB", "256 MiB until the other process has it", "ms", 1, false, NULL },
    [MS_SMALL] = { "us_1MiB", "1 MiB until the other process has it", "µs", 1e3, false, NULL },
};

static const bench_comparison comparisons[] = {
    { "256 MiB handed over", "td-block", NULL, 0.1, "ms_256MiB" },
    { "256 MiB copied by a queue / by two memcpys", "td-copy", "copy-both", 1.1, "ms_256MiB" },
    { "256 MiB by a connection / by a socketpair", "td-connection", "socket", 0, "ms_256MiB" },
    { "1 MiB copied by a queue / by two memcpys", "td-copy", "copy-both", 0, "us_1MiB" },
};

static const char *const notes[] = {
    "each process has a CPU (Python's go where the system puts them), and its memory has its pages before the "
    "measurement, but for Python's; the median of several transfers, 0.1 ms of sleep before each",
    "three words of each payload are checked",
};

int main(int argc, char **argv)
{
    td_init();
    if (bench_option(argc, argv, "--serve"))
        return bench_serve(ops, sizeof ops / sizeof *ops);
    tandem_server = (bench_server){ .argv = { bench_self(), "--serve", "tandem" } };
    peers = (bench_server){ .argv = { bench_self(), "--serve", "peers" } };
    bench_python_rows(&python, "peers_message.py", rows, sizeof rows / sizeof *rows);
    bench b = {
        .name = "bench_payload",
        .title = "a large payload to another process",
        .metrics = metrics,
        .metric_count = METRICS,
        .rows = rows,
        .row_count = sizeof rows / sizeof *rows,
        .bold = { "memcpy" },
        .comparisons = comparisons,
        .comparison_count = sizeof comparisons / sizeof *comparisons,
        .notes = notes,
        .note_count = sizeof notes / sizeof *notes,
    };
    return bench_main(&b, argc, argv);
}
