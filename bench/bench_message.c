/* SPDX-License-Identifier: MIT */
/* How many messages a second go from one process to another, and how long do one there and one back take? */
#include "common.h"
#include "futex.h"
#include "items.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/socket.h>
#include <tandem.h>
#include <unistd.h>
#ifdef BENCH_ZMQ
#include <zmq.h>
#endif

enum {
    SMALL = 64,
    LARGE = 65536,
    MANY = 8,            /* producers, and as many consumers */
    LARGE_SHARE = 32,    /* n small messages, n / LARGE_SHARE large ones, */
    MANY_SHARE = 2,      /* n / MANY_SHARE by many, */
    HOT_SHARE = 100,     /* n / HOT_SHARE round trips, */
    ASLEEP_SHARE = 1000, /* n / ASLEEP_SHARE with pauses */
    PAUSE_NS = 100000,   /* long enough that every contender's other side has given up spinning */
    BATCH_MAX = 64,
    WARM = 20, /* round trips that are not measured */
};

enum { RATE_SMALL, RATE_LARGE, RATE_MANY, HOT, ASLEEP, METRICS };

/* --- contenders -------------------------------------------------------------------------------------------------- */

typedef struct channel channel;

/* Sides 0 and 1 of a channel send to each other. With many, the even ones send and the odd ones receive. */
typedef struct message_kind {
    size_t state;                         /* bytes of shared memory in channel.state, zeroed; 0: none */
    void (*open)(channel *c);             /* before the processes begin */
    void (*attach)(channel *c, int side); /* in a process that has begun; may be NULL */
    void (*detach)(channel *c, int side); /* before it ends; may be NULL */
    void (*close)(channel *c);            /* may be NULL */
    /* Sends `count` messages; waits for at least one, at most `most`, and returns how many came. */
    void (*send)(channel *c, int side, const char *messages, size_t count);
    size_t (*receive)(channel *c, int side, char *messages, size_t most);
    size_t batch; /* messages a call; 0: 1 */
    bool many;    /* can have several senders and receivers */
    bool spins;   /* and never sleeps */
} message_kind;

struct channel {
    const message_kind *kind;
    size_t size;  /* of a message */
    size_t slots; /* for rings: as many as are customary for this size; a power of two */
    int fd[2][2]; /* by side: where it reads, where it writes */
    void *state;
    td_connection *connection[2];
    td_queue *to[2]; /* by the side that gets */

    long n; /* messages, or round trips of a part */
    int64_t pause_ns;
    bool pinned;
    int64_t begin, end;        /* of the receiver of one-way traffic */
    bench_parts parts;         /* of side 0 of round trips */
    items_seen seen[2 * MANY]; /* by index */
};

static channel *channel_open(const message_kind *kind, size_t size, long n)
{
    channel *c = bench_share(sizeof *c);
    c->kind = kind;
    c->size = size;
    c->slots = size == SMALL ? 4096 : 16;
    c->n = n;
    c->pinned = true;
    if (kind->state)
        c->state = bench_share(kind->state);
    kind->open(c);
    return c;
}

static void channel_close(channel *c)
{
    if (c->kind->close)
        c->kind->close(c);
    if (c->state)
        bench_unshare(c->state, c->kind->state);
    bench_unshare(c, sizeof *c);
}

/* What every process does first and last. A library's own threads, if it starts any, are not pinned. */
static void arrive(channel *c, int side)
{
    if (c->kind->attach)
        c->kind->attach(c, side);
    if (c->pinned)
        bench_pin_to(side);
}

static void leave(channel *c, int side)
{
    if (c->kind->detach)
        c->kind->detach(c, side);
}

/* --- the measurements ------------------------------------------------------------------------------------------- */

static char buffer[LARGE] __attribute__((aligned(64))); /* each process has its own */

static size_t words_of(const channel *c)
{
    return c->size / 8;
}

static uint64_t *message(const channel *c, size_t i)
{
    return (uint64_t *)(void *)(buffer + i * c->size);
}

static void send_all(channel *c, int side, int producer, long count)
{
    size_t batch = c->kind->batch && c->size == SMALL ? c->kind->batch : 1;
    for (long done = 0; done < count;) {
        size_t n = (size_t)(count - done) < batch ? (size_t)(count - done) : batch;
        for (size_t i = 0; i < n; i++)
            item_write(message(c, i), words_of(c), item_value(producer, ++done));
        c->kind->send(c, side, buffer, n);
    }
}

static void receive_all(channel *c, int side, items_seen *seen, long count)
{
    size_t batch = c->kind->batch && c->size == SMALL ? c->kind->batch : 1;
    for (size_t left = (size_t)count; left > 0;) {
        size_t n = c->kind->receive(c, side, buffer, left < batch ? left : batch);
        for (size_t i = 0; i < n; i++)
            item_see(seen, message(c, i), words_of(c));
        left -= n;
    }
}

/* Side 0 sends, and the first tenth is not measured: until then the connection stands. */
static void one_way(int side, void *argument)
{
    channel *c = argument;
    long warm = c->n / 10;
    arrive(c, side);
    if (side == 0) {
        send_all(c, side, 0, warm + c->n);
    } else {
        receive_all(c, side, &c->seen[side], warm);
        c->begin = bench_now();
        receive_all(c, side, &c->seen[side], c->n);
        c->end = bench_now();
        if (c->seen[side].sum != item_sum(0, warm + c->n))
            bench_fail("messages were lost, or came twice");
    }
    leave(c, side);
}

static double per_second(const message_kind *kind, size_t size, long n)
{
    channel *c = channel_open(kind, size, n);
    bench_team_run(2, true, one_way, c);
    double rate = (double)n * 1e9 / (double)(c->end - c->begin);
    channel_close(c);
    return rate;
}

/* The even ones send. */
static void by_many(int index, void *argument)
{
    channel *c = argument;
    arrive(c, index % 2);
    if (index % 2 == 0)
        send_all(c, 0, index / 2, c->n / MANY);
    else
        receive_all(c, 1, &c->seen[index], c->n / MANY);
    leave(c, index % 2);
}

static double per_second_by_many(const message_kind *kind, long n)
{
    channel *c = channel_open(kind, SMALL, n - n % MANY);
    uint64_t sum = 0, expected = 0;
    c->pinned = false;
    double rate = (double)c->n * 1e9 / (double)bench_team_run(2 * MANY, true, by_many, c);
    for (int i = 0; i < MANY; i++) {
        sum += c->seen[2 * i + 1].sum;
        expected += item_sum(i, c->n / MANY);
    }
    if (sum != expected)
        bench_fail("messages were lost, or came twice");
    channel_close(c);
    return rate;
}

static void expect(channel *c, int side, uint64_t number)
{
    while (c->kind->receive(c, side, buffer, 1) != 1)
        continue;
    if (message(c, 0)[0] != number || message(c, 0)[words_of(c) - 1] != number)
        bench_fail("another message came");
    if (c->pause_ns)
        bench_compute(c->pause_ns);
}

static void begin_each(channel *c)
{
    uint64_t number = 0;
    for (int part = -1; part < BENCH_PARTS; part++) {
        if (part >= 0)
            c->parts.at[part] = bench_now();
        for (long i = 0; i < (part < 0 ? WARM : c->n); i++) {
            item_write(message(c, 0), words_of(c), ++number);
            c->kind->send(c, 0, buffer, 1);
            expect(c, 0, number);
        }
    }
    c->parts.at[BENCH_PARTS] = bench_now();
}

static void answer_each(channel *c)
{
    for (uint64_t number = 1; number <= (uint64_t)(WARM + BENCH_PARTS * c->n); number++) {
        expect(c, 1, number);
        c->kind->send(c, 1, buffer, 1);
    }
}

static void back_and_forth(int side, void *argument)
{
    channel *c = argument;
    arrive(c, side);
    if (side == 0)
        begin_each(c);
    else
        answer_each(c);
    leave(c, side);
}

static double round_trip_ns(const message_kind *kind, long n, int64_t pause_ns)
{
    long each = n / BENCH_PARTS ? n / BENCH_PARTS : 1;
    channel *c = channel_open(kind, SMALL, each);
    c->pause_ns = pause_ns;
    bench_team_run(2, true, back_and_forth, c);
    double ns = bench_part_ns(&c->parts, each) - 2 * (double)pause_ns;
    channel_close(c);
    return ns;
}

static size_t measure_messages(const message_kind *kind, long n, double *values)
{
    for (int i = 0; i < METRICS; i++)
        values[i] = NAN;
    values[RATE_SMALL] = per_second(kind, SMALL, n) / 1e6;
    if (kind->many)
        values[RATE_MANY] = per_second_by_many(kind, n / MANY_SHARE) / 1e6;
    if (kind->batch > 1)
        return METRICS;
    values[RATE_LARGE] = per_second(kind, LARGE, n / LARGE_SHARE) / 1e3;
    values[HOT] = round_trip_ns(kind, n / HOT_SHARE, 0);
    if (!kind->spins)
        values[ASLEEP] = round_trip_ns(kind, n / ASLEEP_SHARE, PAUSE_NS);
    return METRICS;
}

#define MESSAGE_OP(NAME)                                  \
    static size_t NAME(long n, double *values)            \
    {                                                     \
        return measure_messages(&NAME##_kind, n, values); \
    }

/* --- Tandem ----------------------------------------------------------------------------------------------------- */

static void queue_open(channel *c)
{
    for (int side = 0; side < 2; side++)
        if ((c->to[side] = td_queue_new(.item_size = c->size, .capacity = c->slots, .shared = true)) == NULL)
            bench_fail("td_queue_new: %s", td_last_message());
}

static void queue_close(channel *c)
{
    td_queue_free(c->to[0]);
    td_queue_free(c->to[1]);
}

static void queue_put(channel *c, int side, const char *messages, size_t count)
{
    (void)count;
    if (td_queue_put(c->to[!side], messages) < 0)
        bench_fail("td_queue_put: %s", td_last_message());
}

static size_t queue_get(channel *c, int side, char *messages, size_t most)
{
    (void)most;
    if (td_queue_get(c->to[side], messages) < 0)
        bench_fail("td_queue_get: %s", td_last_message());
    return 1;
}

static void queue_put_many(channel *c, int side, const char *messages, size_t count)
{
    if (td_queue_put_many(c->to[!side], messages, count) != (int64_t)count)
        bench_fail("td_queue_put_many: %s", td_last_message());
}

static size_t queue_get_many(channel *c, int side, char *messages, size_t most)
{
    int64_t n = td_queue_get_many(c->to[side], messages, most);
    if (n <= 0)
        bench_fail("td_queue_get_many: %s", td_last_message());
    return (size_t)n;
}

static const message_kind queue_kind = {
    .open = queue_open, .close = queue_close, .send = queue_put, .receive = queue_get, .many = true
};
static const message_kind queue_many_kind = { .open = queue_open,
                                              .close = queue_close,
                                              .send = queue_put_many,
                                              .receive = queue_get_many,
                                              .batch = BATCH_MAX,
                                              .many = true };
MESSAGE_OP(queue)
MESSAGE_OP(queue_many)

static void connection_open(channel *c)
{
    if (td_pipe_duplex(&c->connection[0], &c->connection[1]) < 0)
        bench_fail("td_pipe_duplex: %s", td_last_message());
}

static void connection_close(channel *c)
{
    td_connection_free(c->connection[0]);
    td_connection_free(c->connection[1]);
}

static void connection_send(channel *c, int side, const char *messages, size_t count)
{
    (void)count;
    if (td_send(c->connection[side], messages, c->size) < 0)
        bench_fail("td_send: %s", td_last_message());
}

static size_t connection_receive(channel *c, int side, char *messages, size_t most)
{
    (void)most;
    if (td_recv_into(c->connection[side], messages, c->size, NULL) < 0)
        bench_fail("td_recv_into: %s", td_last_message());
    return 1;
}

static const message_kind connection_kind = { .open = connection_open,
                                              .close = connection_close,
                                              .send = connection_send,
                                              .receive = connection_receive,
                                              .many = true };
MESSAGE_OP(connection)

/* --- limits: bare rings in shared memory ------------------------------------------------------------------------ */

/* Each side keeps the other's index as it last saw it. `waits` is 1 while the side that would wake is to be told. */
typedef struct ring {
    _Alignas(64) _Atomic size_t head; /* written by the receiver */
    size_t seen_tail;
    _Alignas(64) _Atomic size_t tail; /* written by the sender */
    size_t seen_head;
    _Alignas(64) _Atomic uint32_t receiver_waits;
    _Alignas(64) _Atomic uint32_t sender_waits;
    _Alignas(64) char slots[16 * LARGE];
} ring;

typedef struct rings {
    ring to[2]; /* by the side that reads */
} rings;

static void no_open(channel *c)
{
    (void)c;
}

static inline void copy_message(const channel *c, void *to, const void *from)
{
    if (c->size == SMALL)
        memcpy(to, from, SMALL);
    else
        memcpy(to, from, c->size);
}

static inline char *slot(channel *c, ring *r, size_t i)
{
    return r->slots + (i & (c->slots - 1)) * c->size;
}

/* Waits until *index is not `old`. The store of `waits` and the later load of the index are sequentially consistent, as
 * are the other side's store of the index and load of `waits` (see wake): one of the two sees the other's store. */
static size_t wait_for_change(_Atomic size_t *index, size_t old, _Atomic uint32_t *waits, bool sleeps)
{
    enum { SPINS = 2000 };
    unsigned spins = 0;
    size_t now;
    while ((now = atomic_load_explicit(index, memory_order_acquire)) == old) {
        if (!sleeps) {
            bench_spin(&spins);
        } else if (spins < SPINS) {
            spins++;
            bench_relax();
        } else {
            atomic_store(waits, 1);
            if (atomic_load(index) == old)
                bench_futex_wait(waits, 1);
            atomic_store_explicit(waits, 0, memory_order_relaxed);
        }
    }
    return now;
}

static inline void wake(_Atomic uint32_t *waits, bool sleeps)
{
    if (!sleeps)
        return;
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(waits, memory_order_relaxed) && atomic_exchange(waits, 0))
        bench_futex_wake(waits, 1);
}

static inline void ring_send(channel *c, int side, const char *from, bool sleeps)
{
    ring *r = &((rings *)c->state)->to[!side];
    size_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
    if (tail - r->seen_head == c->slots)
        r->seen_head = wait_for_change(&r->head, tail - c->slots, &r->sender_waits, sleeps);
    copy_message(c, slot(c, r, tail), from);
    atomic_store_explicit(&r->tail, tail + 1, memory_order_release);
    wake(&r->receiver_waits, sleeps);
}

static inline void ring_receive(channel *c, int side, char *to, bool sleeps)
{
    ring *r = &((rings *)c->state)->to[side];
    size_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    if (head == r->seen_tail)
        r->seen_tail = wait_for_change(&r->tail, head, &r->receiver_waits, sleeps);
    copy_message(c, to, slot(c, r, head));
    atomic_store_explicit(&r->head, head + 1, memory_order_release);
    wake(&r->sender_waits, sleeps);
}

static void spin_send(channel *c, int side, const char *messages, size_t count)
{
    (void)count;
    ring_send(c, side, messages, false);
}

static size_t spin_receive(channel *c, int side, char *messages, size_t most)
{
    (void)most;
    ring_receive(c, side, messages, false);
    return 1;
}

static void futex_send(channel *c, int side, const char *messages, size_t count)
{
    (void)count;
    ring_send(c, side, messages, true);
}

static size_t futex_receive(channel *c, int side, char *messages, size_t most)
{
    (void)most;
    ring_receive(c, side, messages, true);
    return 1;
}

static const message_kind spin_kind = {
    .state = sizeof(rings), .open = no_open, .send = spin_send, .receive = spin_receive, .spins = true
};
static const message_kind futex_kind = {
    .state = sizeof(rings), .open = no_open, .send = futex_send, .receive = futex_receive
};
MESSAGE_OP(spin)
MESSAGE_OP(futex)

/* --- pipes and sockets ------------------------------------------------------------------------------------------ */

static void pipe_open(channel *c)
{
    for (int side = 0; side < 2; side++) {
        int fds[2];
        if (pipe(fds) < 0)
            bench_fail("pipe: %s", strerror(errno));
        c->fd[!side][0] = fds[0];
        c->fd[side][1] = fds[1];
    }
}

static void socket_open(channel *c, int type)
{
    int fds[2];
    if (socketpair(AF_UNIX, type, 0, fds) < 0)
        bench_fail("socketpair: %s", strerror(errno));
    for (int side = 0; side < 2; side++)
        c->fd[side][0] = c->fd[side][1] = fds[side];
}

static void stream_open(channel *c)
{
    socket_open(c, SOCK_STREAM);
}

static void seqpacket_open(channel *c)
{
    socket_open(c, SOCK_SEQPACKET);
}

static void fd_close(channel *c)
{
    for (int side = 0; side < 2; side++) {
        close(c->fd[side][0]);
        if (c->fd[side][1] != c->fd[side][0])
            close(c->fd[side][1]);
    }
}

static void fd_send(channel *c, int side, const char *messages, size_t count)
{
    (void)count;
    for (size_t done = 0; done < c->size;) {
        ssize_t n = write(c->fd[side][1], messages + done, c->size - done);
        if (n <= 0)
            bench_fail("write: %s", strerror(errno));
        done += (size_t)n;
    }
}

static size_t fd_receive(channel *c, int side, char *messages, size_t most)
{
    (void)most;
    for (size_t done = 0; done < c->size;) {
        ssize_t n = read(c->fd[side][0], messages + done, c->size - done);
        if (n <= 0)
            bench_fail("read: %s", n < 0 ? strerror(errno) : "end of file");
        done += (size_t)n;
    }
    return 1;
}

/* Many may use a pipe: 64 bytes go in and come out in one piece, since 4096 is a multiple of 64. */
static const message_kind fifo_kind = {
    .open = pipe_open, .close = fd_close, .send = fd_send, .receive = fd_receive, .many = true
};
static const message_kind stream_kind = {
    .open = stream_open, .close = fd_close, .send = fd_send, .receive = fd_receive
};
static const message_kind seqpacket_kind = {
    .open = seqpacket_open, .close = fd_close, .send = fd_send, .receive = fd_receive, .many = true
};
MESSAGE_OP(fifo)
MESSAGE_OP(stream)
MESSAGE_OP(seqpacket)

/* --- ZeroMQ ----------------------------------------------------------------------------------------------------- */

#ifdef BENCH_ZMQ
typedef struct zmq_own {
    void *context, *socket;
} zmq_own;

static zmq_own zmq_mine;

/* The name is abstract: nothing is left in the file system. */
static void zmq_attach(channel *c, int side)
{
    const char *name = bench_text("ipc://@tandem-bench-%d-%p", (int)getppid(), (void *)c);
    zmq_mine.context = zmq_ctx_new();
    zmq_mine.socket = zmq_mine.context ? zmq_socket(zmq_mine.context, ZMQ_PAIR) : NULL;
    if (zmq_mine.socket == NULL || (side ? zmq_bind(zmq_mine.socket, name) : zmq_connect(zmq_mine.socket, name)) < 0)
        bench_fail("zmq: %s", zmq_strerror(zmq_errno()));
}

static void zmq_detach(channel *c, int side)
{
    (void)c;
    (void)side;
    zmq_close(zmq_mine.socket);
    zmq_ctx_term(zmq_mine.context);
}

static void zmq_send_one(channel *c, int side, const char *messages, size_t count)
{
    (void)side;
    (void)count;
    if (zmq_send(zmq_mine.socket, messages, c->size, 0) != (int)c->size)
        bench_fail("zmq_send: %s", zmq_strerror(zmq_errno()));
}

static size_t zmq_receive_one(channel *c, int side, char *messages, size_t most)
{
    (void)side;
    (void)most;
    if (zmq_recv(zmq_mine.socket, messages, c->size, 0) != (int)c->size)
        bench_fail("zmq_recv: %s", zmq_strerror(zmq_errno()));
    return 1;
}

static const message_kind zmq_kind = {
    .open = no_open, .attach = zmq_attach, .detach = zmq_detach, .send = zmq_send_one, .receive = zmq_receive_one
};
MESSAGE_OP(zmq)
#endif

/* --- the driver ------------------------------------------------------------------------------------------------- */

static const bench_op ops[] = {
    { "td", queue },  { "td-many", queue_many }, { "td-connection", connection }, { "spin", spin }, { "futex", futex },
    { "pipe", fifo }, { "stream", stream },      { "seqpacket", seqpacket },
#ifdef BENCH_ZMQ
    { "zmq", zmq },
#endif
};

static bench_server tandem_server, peers, python;

static bench_row rows[] = {
    BENCH_ROW("spin", BENCH_LIMIT, &peers, "spin", 2000000, 500000, "limit: ring, spinning"),
    BENCH_ROW("futex", BENCH_LIMIT, &peers, "futex", 1000000, 300000, "limit: ring, 2000 pauses, then a futex"),
    BENCH_ROW("td", BENCH_TANDEM, &tandem_server, "td", 1000000, 300000, "Tandem td_queue"),
    BENCH_ROW("td-many", BENCH_TANDEM, &tandem_server, "td-many", 2000000, 500000, "Tandem td_queue, 64 at a time"),
    BENCH_ROW("td-connection", BENCH_TANDEM, &tandem_server, "td-connection", 100000, 30000, "Tandem connection"),
    BENCH_ROW("pipe", BENCH_PEER, &peers, "pipe", 150000, 30000, "pipe"),
    BENCH_ROW("stream", BENCH_PEER, &peers, "stream", 100000, 30000, "socketpair, stream"),
    BENCH_ROW("seqpacket", BENCH_PEER, &peers, "seqpacket", 100000, 30000, "socketpair, seqpacket"),
#ifdef BENCH_ZMQ
    BENCH_ROW("zmq", BENCH_PEER, &peers, "zmq", 100000, 30000, "ZeroMQ ipc, PAIR"),
#endif
    BENCH_ROW("python-queue", BENCH_PEER, &python, "queue", 20000, 8000, "multiprocessing.Queue"),
    BENCH_ROW("python-pipe", BENCH_PEER, &python, "pipe", 20000, 8000, "Pipe, send_bytes"),
};

static const bench_metric metrics[METRICS] = {
    [RATE_SMALL] = { "mmsgs_64B", "1 sender, 1 receiver, 64 bytes", "M/s", 1, true, NULL },
    [RATE_LARGE] = { "kmsgs_64KiB", "1 sender, 1 receiver, 64 KiB", "k/s", 1, true, NULL },
    [RATE_MANY] = { "mmsgs_8p8c_64B", "8 senders, 8 receivers, 64 bytes", "M/s", 1, true, "pipe" },
    [HOT] = { "roundtrip_ns", "round trip of 64 bytes, both wait for nothing else", "ns", 1, false, NULL },
    [ASLEEP] = { "asleep_us", "round trip of 64 bytes, 100 µs of work before each answer", "µs", 1e-3, false, "pipe" },
};

static const bench_comparison comparisons[] = {
    { "64 bytes, put and get", "td", NULL, 12, "mmsgs_64B" },
    { "64 bytes, put_many and get_many", "td-many", NULL, 25, "mmsgs_64B" },
    { "64 bytes, 8 producers and 8 consumers (half of one and one)", "td", NULL, 6, "mmsgs_8p8c_64B" },
    { "64 KiB: Tandem / the ring", "td", "spin", 0.9, "kmsgs_64KiB" },
    { "round trip, hot", "td", NULL, 300, "roundtrip_ns" },
    { "round trip, asleep: Tandem / pipe", "td", "pipe", 1, "asleep_us" },
    { "64 bytes: connection / socketpair", "td-connection", "stream|seqpacket", 0, "mmsgs_64B" },
    { "64 bytes: Tandem / multiprocessing.Queue", "td", "python-queue", 0, "mmsgs_64B" },
};

static const char *const notes[] = {
    "one sender and one receiver, and the two of a round trip, have a CPU each (Python's, and ZeroMQ's own threads, go "
    "where the system puts them); the work is not counted",
    "each sender's order, each message's last word and the sum of all are checked",
#ifndef BENCH_ZMQ
    "left out: ZeroMQ (not there when this was built)",
#endif
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
        .name = "bench_message",
        .title = "messages between two processes",
        .metrics = metrics,
        .metric_count = METRICS,
        .rows = rows,
        .row_count = sizeof rows / sizeof *rows,
        .bold = { "spin" },
        .comparisons = comparisons,
        .comparison_count = sizeof comparisons / sizeof *comparisons,
        .notes = notes,
        .note_count = sizeof notes / sizeof *notes,
    };
    return bench_main(&b, argc, argv);
}
