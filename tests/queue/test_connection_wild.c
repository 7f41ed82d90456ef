/* SPDX-License-Identifier: MIT */
/*
 * What a connection does with surroundings that fail and with another side that is not what it should be: every call to
 * the system fails once; packets of all kinds of nonsense; channels that say the wrong thing.
 */
#include "harness.h"
#include "queue/connection.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <tandem/connection.h>

enum { KIB = 1024, MIB = 1024 * 1024, MAGIC = 0x31434454 };

/* --- another side that is not ours -------------------------------------------------------------------------------- */

static td_connection *reader, *writer;
static int raw; /* the other side's descriptor */

static void open_pair(void)
{
    REQUIRE_OK(td_pipe_duplex(&reader, &writer));
    raw = td_connection_fileno(writer);
}

static void close_pair(void)
{
    td_connection_free(reader);
    td_connection_free(writer);
}

static void inject(const void *bytes, size_t size, const int *fds, size_t count)
{
    REQUIRE(td__send(raw, bytes, size, fds, count) == 0);
}

struct packet {
    td__header header;
    unsigned char rest[40];
};

static struct packet packet_of(int kind, uint64_t size)
{
    struct packet p = { .header = { .magic = MAGIC, .kind = (uint8_t)kind, .size = size } };
    return p;
}

static void after_nonsense(void)
{
    REQUIRE_OK(td_send(writer, "good", 5));
    void *data = NULL;
    size_t size;
    if (CHECK_OK(td_recv_for(reader, &data, &size, td_s(20))))
        CHECK(size == 5 && strcmp(data, "good") == 0);
    free(data);
}

/* Catches: a length or a kind from outside that is believed; a packet that is given to the caller though it is none; a
 * stream that does not go on behind it. */
TEST(malformed_packets)
{
    open_pair();
    struct {
        int kind;
        uint64_t claimed;
        size_t payload;
    } cases[] = { { TD__FRAME_DATA, 6, 5 },
                  { TD__FRAME_DATA, 4, 5 },
                  { TD__FRAME_DATA, UINT64_MAX, 5 },
                  { TD__FRAME_DATA, (uint64_t)1 << 63, 0 },
                  { TD__FRAME_DATA, 0, 1 },
                  { TD__FRAME_LARGE, 1 << 20, 0 },
                  { TD__FRAME_LARGE, 1 << 20, 8 },
                  { TD__FRAME_LARGE, UINT64_MAX, 8 },
                  { TD__FRAME_LARGE, 0, 8 },
                  { TD__FRAME_FD, 0, 0 },
                  { TD__FRAME_CONNECTION, 0, 0 },
                  { 0, 5, 5 },
                  { 5, 5, 5 },
                  { 255, 0, 0 } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct packet p = packet_of(cases[i].kind, cases[i].claimed);
        void *data;
        char buffer[64];
        for (int way = 0; way < 2; way++) {
            inject(&p, sizeof p.header + cases[i].payload, NULL, 0);
            if (way == 0)
                CHECK_ERROR(td_recv(reader, &data, NULL), TD_ETORN);
            else
                CHECK_ERROR(td_recv_into(reader, buffer, sizeof buffer, NULL), TD_ETORN);
            after_nonsense();
        }
    }
    /* Too short for a header, and longer than any packet of ours. */
    struct packet p = packet_of(TD__FRAME_DATA, 0);
    for (size_t n = 1; n < sizeof p.header; n += 7) {
        inject(&p, n, NULL, 0);
        CHECK_ERROR(td_recv_skip(reader), TD_ETORN);
    }
    static struct {
        td__header header;
        char rest[TD__PACKET_MAX + 1];
    } long_one;
    long_one.header = packet_of(TD__FRAME_DATA, TD__PACKET_MAX + 1).header;
    inject(&long_one, sizeof long_one.header + TD__PACKET_MAX + 1, NULL, 0);
    CHECK_ERROR(td_recv_skip(reader), TD_ETORN);
    p.header.magic++;
    inject(&p, sizeof p.header, NULL, 0);
    CHECK_ERROR(td_recv_skip(reader), TD_ETORN);
    p = packet_of(TD__FRAME_DATA, 0);
    p.header.zero = 1;
    inject(&p, sizeof p.header, NULL, 0);
    CHECK_ERROR(td_recv_skip(reader), TD_ETORN);
    after_nonsense();
    close_pair();
}

/* Catches: descriptors that come where none belong, and stay open. */
TEST(descriptors_where_none_belong)
{
    open_pair();
    int before = count_fds(), many[20];
    for (int i = 0; i < 20; i++)
        many[i] = raw;
    for (size_t count = 1; count <= 20; count += count < 4 ? 1 : 16) {
        struct packet p = packet_of(TD__FRAME_DATA, 4);
        inject(&p, sizeof p.header + 4, many, count);
        CHECK_ERROR(td_recv_skip(reader), TD_ETORN);
        if (count != 1) {
            p = packet_of(TD__FRAME_FD, 0);
            inject(&p, sizeof p.header, many, count);
            CHECK_ERROR(td_recv_fd(reader), TD_ETORN);
        }
    }
    /* A connection that is none. */
    struct packet p = packet_of(TD__FRAME_CONNECTION, 0);
    p.header.detail = TD__READABLE;
    int null = open("/dev/null", O_RDWR);
    inject(&p, sizeof p.header, &null, 1);
    CHECK_NULL(td_recv_connection(reader), TD_ETORN);
    p.header.detail = 77;
    inject(&p, sizeof p.header, &raw, 1);
    CHECK_NULL(td_recv_connection(reader), TD_ETORN);
    close(null);
    CHECK_INT(count_fds(), before);
    after_nonsense();
    close_pair();
}

/* A ring as the library makes it, and a channel; [0] of the channel is the test's. */
static int ring, channel[2];

static void offer(uint64_t size, uint32_t slot_size, uint32_t slots)
{
    struct packet p = packet_of(TD__FRAME_LARGE, size);
    td__geometry geometry = { slot_size, slots };
    memcpy(p.rest, &geometry, sizeof geometry);
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel) == 0);
    int fds[2] = { ring, channel[1] };
    inject(&p, sizeof p.header + sizeof geometry, fds, 2);
    close(channel[1]);
}

static void say(const char *bytes)
{
    REQUIRE(send(channel[0], bytes, strlen(bytes), MSG_NOSIGNAL) == (ssize_t)strlen(bytes));
}

/* Catches: rings that are smaller than they say, or that can be made smaller (SIGBUS); geometry that overflows. */
TEST(malformed_rings)
{
    open_pair();
    int before = count_fds();
    ring = td__memory_file("ring", 64 * KIB);
    static const uint32_t bad[][2] = { { 64 * KIB, 2 },      { 32 * KIB, 3 },   { 0, 1 },
                                       { 4096, 0 },          { UINT32_MAX, 1 }, { 1, 64 },
                                       { 4096, UINT32_MAX }, { 1u << 31, 2 } };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        offer(200000, bad[i][0], bad[i][1]);
        CHECK_ERROR(td_recv_skip(reader), TD_ETORN);
        close(channel[0]);
    }
    close(ring);
    ring = memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    REQUIRE(ftruncate(ring, 64 * KIB) == 0);
    offer(200000, 32 * KIB, 2);
    CHECK_ERROR(td_recv_skip(reader), TD_ETORN);
    close(channel[0]);
    close(ring);
    ring = open("/dev/zero", O_RDWR | O_CLOEXEC);
    offer(200000, 32 * KIB, 2);
    CHECK_ERROR(td_recv_skip(reader), TD_ETORN);
    close(channel[0]);
    close(ring);
    CHECK_INT(count_fds(), before);
    after_nonsense();
    close_pair();
}

/* Catches: a sender's words that make the receiver read too much, wait for ever, or deliver what is not there. */
TEST(malformed_words_of_a_sender)
{
    open_pair();
    int before = count_fds();
    ring = td__memory_file("ring", 64 * KIB);
    static const char *const words[] = { "x", "ccc", "ccccccccc", "\xff", "cD", "a", "ca" };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        void *data;
        offer(100000, 32 * KIB, 2);
        say(words[i]);
        CHECK_ERROR(td_recv(reader, &data, NULL), TD_ETORN);
        close(channel[0]);
    }
    /* More slots than the frame has. */
    void *data;
    offer(32 * KIB, 32 * KIB, 2);
    say("cc");
    CHECK_ERROR(td_recv(reader, &data, NULL), TD_ETORN);
    close(channel[0]);
    /* The end after a part, and at once. */
    offer(100000, 32 * KIB, 2);
    say("c");
    close(channel[0]);
    CHECK_ERROR(td_recv(reader, &data, NULL), TD_ETORN);
    offer(100000, 32 * KIB, 2);
    close(channel[0]);
    CHECK_ERROR(td_recv(reader, &data, NULL), TD_ETORN);
    /* All there, though the sender has gone since. */
    offer(64 * KIB, 32 * KIB, 2);
    say("cc");
    close(channel[0]);
    size_t size = 0;
    CHECK_OK(td_recv(reader, &data, &size));
    CHECK_INT(size, 64 * KIB);
    free(data);
    /* Withdrawn: as if it had not been, whatever was said before. */
    offer(64 * KIB, 32 * KIB, 2);
    say("ccW");
    shutdown(channel[0], SHUT_RDWR);
    after_nonsense();
    close(channel[0]);
    offer(64 * KIB, 32 * KIB, 2);
    say("cW");
    CHECK_OK(td_send(writer, "behind", 7));
    CHECK_OK(td_recv(reader, &data, &size));
    CHECK_STR(data, "behind");
    free(data);
    close(channel[0]);
    close(ring);
    CHECK_INT(count_fds(), before);
    close_pair();
}

/* Catches: memory asked for because a frame says so: there is an error, the frame stays, and can be skipped. */
TEST(a_frame_larger_than_memory)
{
    if (SANITIZED)
        SKIP("a sanitizer's allocator refuses such sizes in its own way");
    open_pair();
    ring = td__memory_file("ring", 64 * KIB);
    void *data = &data;
    offer(TD_FRAME_MAX, 32 * KIB, 2);
    CHECK_ERROR(td_recv(reader, &data, NULL), TD_ENOMEM);
    CHECK(data == NULL);
    char buffer[10];
    size_t size = 0;
    CHECK_ERROR(td_recv_into(reader, buffer, sizeof buffer, &size), TD_ETOOBIG);
    CHECK_INT(size, TD_FRAME_MAX);
    CHECK_OK(td_recv_skip(reader));
    char word = 0;
    CHECK_INT(recv(channel[0], &word, 1, 0), 1);
    CHECK_INT(word, 'D');
    close(channel[0]);
    /* One that says 1 TiB, brings little and ends: address space at most. */
    offer((uint64_t)1 << 40, 32 * KIB, 2);
    say("c");
    close(channel[0]);
    int code = td_recv(reader, &data, NULL);
    CHECK(code == TD_ETORN || code == TD_ENOMEM);
    if (code == TD_ENOMEM)
        CHECK_OK(td_recv_skip(reader));
    after_nonsense();
    close(ring);
    close_pair();
}

/* A receiver that is not ours: takes the announcement of a large frame, says something and goes. */
static const char *its_words;
static bool again; /* and then receives properly */

static void *odd_receiver(void *arg)
{
    struct packet p;
    int fds[4];
    size_t count = 4;
    ssize_t n = td__receive(raw, &p, sizeof p, fds, &count, true);
    CHECK(n == (ssize_t)(sizeof p.header + sizeof(td__geometry)) && count == 2);
    send(fds[1], its_words, strlen(its_words), MSG_NOSIGNAL);
    if (again) { /* a dead receiver: the frame is offered again */
        close(fds[0]);
        close(fds[1]);
        void *data;
        size_t size;
        CHECK_OK(td_recv(writer, &data, &size));
        CHECK_INT(size, 3 * MIB);
        free(data);
    } else {
        event_wait(1);
        close(fds[0]);
        close(fds[1]);
    }
    return arg;
}

/* Catches: a receiver's words that make the sender overwrite what is not read, wait for ever, or take a frame for
 * delivered. */
TEST(malformed_words_of_a_receiver)
{
    static const char *const words[] = { "x", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "c", "a\xff" };
    char *bytes = calloc(1, 3 * MIB);
    int before = count_fds();
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        open_pair();
        pthread_t thread;
        its_words = words[i];
        REQUIRE(pthread_create(&thread, NULL, odd_receiver, NULL) == 0);
        CHECK_ERROR(td_send_for(reader, bytes, 3 * MIB, td_s(20)), TD_ETORN);
        event_set(1);
        pthread_join(thread, NULL);
        close_pair();
    }
    again = true;
    its_words = "a";
    open_pair();
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, odd_receiver, NULL) == 0);
    CHECK_OK(td_send_for(reader, bytes, 3 * MIB, td_s(20)));
    pthread_join(thread, NULL);
    close_pair();
    free(bytes);
    CHECK_INT(count_fds(), before);
}

enum { LAST_WORDS = 4000 };
static bool accepted[LAST_WORDS];
static _Atomic int64_t begun;

/* Says that a frame is delivered at about the time at which its sender gives up: from its limit, of 60 µs, to 130 µs
 * later, which the kernel may take to wake it. Remembers whether that was accepted. */
static void *delivers_late(void *arg)
{
    for (int i = 0; i < LAST_WORDS; i++) {
        struct packet p;
        int fds[4];
        size_t count = 4;
        REQUIRE(td__receive(raw, &p, sizeof p, fds, &count, true) > 0 && count == 2);
        while (td__now() < begun + 60000 + i % 1300 * 100)
            ;
        accepted[i] = send(fds[1], "D", 1, MSG_NOSIGNAL) == 1;
        close(fds[0]);
        close(fds[1]);
        event_add(2);
    }
    return arg;
}

/* Catches: a sender whose time passes just when the receiver delivers, and that does not look for its last word. */
TEST(the_last_word)
{
    char *bytes = calloc(1, MIB);
    open_pair();
    pthread_t thread;
    static bool told[LAST_WORDS];
    REQUIRE(pthread_create(&thread, NULL, delivers_late, NULL) == 0);
    for (int i = 0; i < LAST_WORDS; i++) {
        begun = td__now();
        int code = td_send_for(reader, bytes, 300 * KIB, td_us(60));
        if (code < 0)
            CHECK_INT(code, TD_ETIMEOUT);
        told[i] = code == 0;
        event_wait_count(2, (uint32_t)i + 1);
    }
    pthread_join(thread, NULL);
    int differ = 0, both = 0;
    for (int i = 0; i < LAST_WORDS; i++) {
        differ += told[i] != accepted[i];
        both += told[i];
    }
    CHECK_INT(differ, 0);
    harness_note("%d of %d delivered", both, LAST_WORDS);
    close_pair();
    free(bytes);
}

static uint64_t random_state = 88172645463325252;

static uint32_t random_number(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 16);
}

/* Catches: any packet that makes a receiver crash, hang, or lose its place, descriptors or memory. Most are almost
 * right. */
TEST_LIMIT(random_packets, 100)
{
    open_pair();
    ring = td__memory_file("ring", 64 * KIB);
    int before = count_fds();
    for (int i = 0; i < (SANITIZED ? 4000 : 40000); i++) {
        struct packet p = packet_of((int)(random_number() % 6), 0);
        size_t payload = random_number() % 3 ? random_number() % 3 * 4 : random_number() % sizeof p.rest;
        p.header.size = random_number() % 4 ? payload : random_number() % 8;
        p.header.detail = (uint8_t)(random_number() % 9);
        td__geometry geometry = { 4096u << random_number() % 6, random_number() % 10 };
        memcpy(p.rest, &geometry, sizeof geometry);
        if (random_number() % 8 == 0)
            ((unsigned char *)&p)[random_number() % sizeof p] = (unsigned char)random_number();
        REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel) == 0);
        int fds[3] = { random_number() % 4 ? ring : raw, channel[1], raw };
        if (p.header.kind == TD__FRAME_CONNECTION)
            fds[0] = raw;
        inject(&p, sizeof p.header + payload, fds,
               random_number() % 3 ? (p.header.kind == 2 ? 2 : p.header.kind > 2) : random_number() % 4);
        close(channel[1]);
        char words[4] = { "ccDaW\xff"[random_number() % 6], "ccDaW\xff"[random_number() % 6], 'c', 0 };
        send(channel[0], words, random_number() % 4, MSG_NOSIGNAL);
        close(channel[0]);
        void *data = NULL;
        char buffer[16];
        td_connection *got = NULL;
        int code = 0, fd = -1;
        switch (random_number() % 5) {
        case 0:
            code = td_recv_for(reader, &data, NULL, td_ms(0));
            break;
        case 1:
            code = td_recv_into_for(reader, buffer, random_number() % 17, NULL, td_ms(0));
            break;
        case 2:
            code = td_recv_into_for(reader, NULL, 0, NULL, td_ms(0));
            break;
        case 3:
            if (td_poll(reader, td_ms(0)) == 0 && p.header.kind != TD__FRAME_LARGE)
                code = fd = td_recv_fd(reader);
            break;
        default:
            if (p.header.kind != TD__FRAME_LARGE)
                got = td_recv_connection(reader);
        }
        CHECK(code >= 0 || code == TD_ETORN || code == TD_ETYPE || code == TD_ETOOBIG || code == TD_ETIMEOUT ||
              code == TD_ENOMEM);
        free(data);
        td_connection_free(got);
        td__close(fd);
        while (td_recv_into_for(reader, NULL, 0, NULL, td_ms(0)) != TD_ETIMEOUT) /* what was not taken */
            if (td_last_error() == TD_ETOOBIG || td_last_error() == TD_ETYPE)
                td_recv_skip_for(reader, td_ms(0));
        if (harness_failed())
            break;
    }
    CHECK_INT(count_fds(), before);
    after_nonsense();
    close(ring);
    close_pair();
}

/* --- surroundings that fail ------------------------------------------------------------------------------------------
 */

/* Catches: a frame or a descriptor lost or leaked where there are no descriptors left. */
TEST(no_descriptors_left)
{
    td_connection *a = NULL, *b = NULL;
    open_pair();
    int before = count_fds();
    char *bytes = calloc(1, MIB);
    REQUIRE_OK(td_send_fd(writer, 1));
    REQUIRE_OK(td_send(writer, "behind", 7));
    struct rlimit old, none;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &old) == 0);
    none = old;
    none.rlim_cur = 3;
    REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
    CHECK_ERROR(td_pipe(&a, &b), TD_EDESCRIPTOR);
    CHECK(!a && !b);
    CHECK_ERROR(td_send(writer, bytes, MIB), TD_EDESCRIPTOR);
    CHECK_ERROR(td_recv_fd(reader), TD_EDESCRIPTOR);
    CHECK_OK(td_recv_skip(reader));
    REQUIRE(setrlimit(RLIMIT_NOFILE, &old) == 0);
    CHECK_INT(count_fds(), before);
    free(bytes);
    close_pair();
}

#if defined(TD_FAULTS) && TD_FAULTS
#include "os/fault.h"

static int served(td_call *call)
{
    td_connection *c = td_call_connection(call, 0);
    void *data;
    size_t size;
    int code;
    while ((code = td_recv(c, &data, &size)) != TD_ECLOSED) {
        if (code < 0)
            continue; /* a fault: try again */
        bool quit = size == 4 && memcmp(data, "quit", 4) == 0;
        free(data);
        if (quit)
            break;
    }
    return 0;
}

static bool failed(int code)
{
    if (code >= 0)
        return false;
    CHECK_INT(td_last_error(), code);
    CHECK(td_last_message()[0]);
    return true;
}

/* A pipe's whole life in this process: made, sent on (small), received from, descriptors passed. */
static void one_life(void)
{
    td_connection *r, *w, *passed = NULL;
    if (failed(td_pipe(&r, &w))) {
        CHECK(!r && !w);
        return;
    }
    char buffer[100];
    size_t size;
    void *data;
    if (!failed(td_send(w, "hello", 6))) {
        CHECK(failed(td_recv_into(r, buffer, 3, &size)));         /* too little room, or the fault */
        while (td_recv_into(r, buffer, sizeof buffer, &size) < 0) /* each may fail once; nothing is lost */
            failed(td_last_error());
        CHECK(size == 6 && strcmp(buffer, "hello") == 0);
    }
    if (!failed(td_send(w, "again", 6))) {
        while (td_recv(r, &data, &size) < 0)
            failed(td_last_error());
        CHECK(size == 6 && strcmp(data, "again") == 0);
        free(data);
    }
    if (!failed(td_send_connection(w, w))) {
        passed = td_recv_connection(r);
        if (!passed)
            failed(td_last_error());
    }
    td_connection_free(passed);
    td_connection_free(w);
    td_connection_free(r);
}

/* Catches: a failure of the system that nobody looks at, that loses a frame, or after which something stays. */
TEST(each_call_fails_once)
{
    one_life();
    int before = count_fds();
    for (long n = 1;; n++) {
        td__fault_arm(n);
        one_life();
        bool fired = td__fault_fired();
        td__fault_disarm();
        CHECK_INT(count_fds(), before);
        if (!fired) {
            harness_note("%ld calls", n - 1);
            CHECK(n > 5);
            break;
        }
    }
}

/* Catches: system calls that a small frame does not need: one to send it and one to receive it. */
TEST(one_call_on_each_side)
{
    td_connection *r, *w;
    REQUIRE_OK(td_pipe(&r, &w));
    char buffer[100];
    size_t size;
    REQUIRE_OK(td_send(w, "warm", 5));
    REQUIRE_OK(td_recv_into(r, buffer, sizeof buffer, &size));
    long count = td__fault_count();
    REQUIRE_OK(td_send(w, "hello", 6));
    CHECK_INT(td__fault_count() - count, 1);
    REQUIRE_OK(td_send_for(w, "hello", 6, td_s(10)));
    CHECK_INT(td__fault_count() - count, 2);
    REQUIRE_OK(td_recv_into(r, buffer, sizeof buffer, &size));
    CHECK_INT(td__fault_count() - count, 3);
    REQUIRE_OK(td_recv_into_for(r, buffer, sizeof buffer, &size, td_s(10)));
    CHECK_INT(td__fault_count() - count, 4);
    td_connection_free(r);
    td_connection_free(w);
}

static void *receives_two(void *arg)
{
    size_t total = 0;
    void *data;
    while (total < 4 * MIB) {
        size_t size;
        int code = td_recv(arg, &data, &size);
        if (failed(code))
            continue;
        CHECK(size == 2 * MIB && ((char *)data)[size - 1] == 7);
        total += size;
        free(data);
    }
    return NULL;
}

/* The same with large frames, where both sides may meet the failure: the sender is told, and tries again; a frame that
 * the receiver could not take is there when it asks again. */
TEST_LIMIT(each_call_fails_once_with_large_frames, 100)
{
    char *bytes = malloc(2 * MIB);
    memset(bytes, 7, 2 * MIB);
    int before = count_fds(), maps = count_maps("memfd:");
    for (long n = 1, quiet = 0; quiet < 3; n++) {
        td_connection *r, *w;
        REQUIRE_OK(td_pipe(&r, &w));
        pthread_t thread;
        td__fault_arm(n);
        REQUIRE(pthread_create(&thread, NULL, receives_two, r) == 0);
        for (int i = 0; i < 2; i++)
            while (failed(td_send(w, bytes, 2 * MIB)))
                ;
        pthread_join(thread, NULL);
        quiet = td__fault_fired() ? 0 : quiet + 1;
        td__fault_disarm();
        td_connection_free(r);
        td_connection_free(w);
        CHECK_INT(count_fds(), before);
        CHECK_INT(count_maps("memfd:"), maps);
        REQUIRE(n < 1000);
    }
    free(bytes);
}

/* Catches: duplicates that a failed creation or start leaves behind, a worker that runs without what it was given. */
TEST_MODES_LIMIT(each_call_of_a_start_fails_once, 200)
{
    td_worker *first = WORKER(NEW(.target = served));
    td_free(first);
    CHECK_OK(td_finish());
    int before = count_fds();
    for (long n = 1, quiet = 0; quiet < 3; n++) {
        td_connection *a, *b;
        REQUIRE_OK(td_pipe_duplex(&a, &b));
        td__fault_arm(n);
        td_worker *w = NEW(.target = served, .connections = TD_CONNECTIONS(b));
        if (!w)
            failed(td_last_error());
        bool runs = w && !failed(td_start(w));
        td_connection_free(b);
        if (runs) {
            if (n % 2)
                td_send(a, "quit", 4);
            td_connection_close(a);
            CHECK_OK(td_join_for(w, td_s(20)));
            CHECK(td_outcome(w) != TD_RUNNING);
            if (td_outcome(w) != TD_RETURNED)
                CHECK(td_describe(w)[0]);
        }
        quiet = td__fault_fired() ? 0 : quiet + 1;
        td__fault_disarm();
        td_free(w);
        td_connection_free(a);
        CHECK_OK(td_finish());
        WAIT_UNTIL(count_fds() == before, 5);
        if (page->failures > 20)
            break;
        REQUIRE(n < 2000);
    }
}
#endif
