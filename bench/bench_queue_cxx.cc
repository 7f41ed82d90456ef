// SPDX-License-Identifier: MIT
// The C++ queues of bench_queue.
#include "bench_queue.h"

#ifdef BENCH_MOODYCAMEL
#include <concurrentqueue/blockingconcurrentqueue.h>

namespace
{

template <typename Item> using Queue = moodycamel::BlockingConcurrentQueue<Item>;

template <typename Item> void *create()
{
    return new Queue<Item>(QUEUE_CAPACITY);
}

template <typename Item> void destroy(void *queue)
{
    delete static_cast<Queue<Item> *>(queue);
}

template <typename Item> inline void put(void *queue, const Item *items, size_t)
{
    if (!static_cast<Queue<Item> *>(queue)->enqueue(*items))
        bench_fail("enqueue: no memory");
}

template <typename Item> inline size_t get(void *queue, Item *items, size_t)
{
    static_cast<Queue<Item> *>(queue)->wait_dequeue(*items);
    return 1;
}

template <typename Item> struct Producer {
    Queue<Item> &queue;
    moodycamel::ProducerToken token;
    explicit Producer(void *q) : queue(*static_cast<Queue<Item> *>(q)), token(queue)
    {
    }
};

template <typename Item> struct Consumer {
    Queue<Item> &queue;
    moodycamel::ConsumerToken token;
    explicit Consumer(void *q) : queue(*static_cast<Queue<Item> *>(q)), token(queue)
    {
    }
};

template <typename Item> inline void put_by_token(Producer<Item> &h, const Item *items, size_t)
{
    if (!h.queue.enqueue(h.token, *items))
        bench_fail("enqueue: no memory");
}

template <typename Item> inline size_t get_by_token(Consumer<Item> &h, Item *items, size_t)
{
    h.queue.wait_dequeue(h.token, *items);
    return 1;
}

template <typename Item> inline void put_bulk(Producer<Item> &h, const Item *items, size_t n)
{
    if (!h.queue.enqueue_bulk(h.token, items, n))
        bench_fail("enqueue_bulk: no memory");
}

template <typename Item> inline size_t get_bulk(Consumer<Item> &h, Item *items, size_t most)
{
    return h.queue.wait_dequeue_bulk(h.token, items, most);
}

#define PRODUCER_8(h, q)  Producer<item_8> h(q)
#define PRODUCER_64(h, q) Producer<item_64> h(q)
#define CONSUMER_8(h, q)  Consumer<item_8> h(q)
#define CONSUMER_64(h, q) Consumer<item_64> h(q)

QUEUE_LOOPS(plain_8, item_8, 1, QUEUE_PLAIN, QUEUE_PLAIN, put, get)
QUEUE_LOOPS(plain_64, item_64, 1, QUEUE_PLAIN, QUEUE_PLAIN, put, get)
QUEUE_LOOPS(token_8, item_8, 1, PRODUCER_8, CONSUMER_8, put_by_token, get_by_token)
QUEUE_LOOPS(token_64, item_64, 1, PRODUCER_64, CONSUMER_64, put_by_token, get_by_token)
QUEUE_LOOPS(bulk_8, item_8, QUEUE_BATCH, PRODUCER_8, CONSUMER_8, put_bulk, get_bulk)
QUEUE_LOOPS(bulk_64, item_64, QUEUE_BATCH, PRODUCER_64, CONSUMER_64, put_bulk, get_bulk)

} // namespace

const queue_pair moodycamel_pair = { QUEUE_KIND(plain_8, create<item_8>, destroy<item_8>),
                                     QUEUE_KIND(plain_64, create<item_64>, destroy<item_64>), false };
const queue_pair moodycamel_tokens_pair = { QUEUE_KIND(token_8, create<item_8>, destroy<item_8>),
                                            QUEUE_KIND(token_64, create<item_64>, destroy<item_64>), false };
const queue_pair moodycamel_bulk_pair = { QUEUE_KIND(bulk_8, create<item_8>, destroy<item_8>),
                                          QUEUE_KIND(bulk_64, create<item_64>, destroy<item_64>), false };
#endif

#ifdef BENCH_TBB
#include <tbb/concurrent_queue.h>

namespace
{

template <typename Item> using Bounded = tbb::concurrent_bounded_queue<Item>;

template <typename Item> void *create_bounded()
{
    auto *queue = new Bounded<Item>;
    queue->set_capacity(QUEUE_CAPACITY);
    return queue;
}

template <typename Item> void destroy_bounded(void *queue)
{
    delete static_cast<Bounded<Item> *>(queue);
}

template <typename Item> inline void push(void *queue, const Item *items, size_t)
{
    static_cast<Bounded<Item> *>(queue)->push(*items);
}

template <typename Item> inline size_t pop(void *queue, Item *items, size_t)
{
    static_cast<Bounded<Item> *>(queue)->pop(*items);
    return 1;
}

QUEUE_LOOPS(tbb_8, item_8, 1, QUEUE_PLAIN, QUEUE_PLAIN, push, pop)
QUEUE_LOOPS(tbb_64, item_64, 1, QUEUE_PLAIN, QUEUE_PLAIN, push, pop)

} // namespace

const queue_pair tbb_pair = { QUEUE_KIND(tbb_8, create_bounded<item_8>, destroy_bounded<item_8>),
                              QUEUE_KIND(tbb_64, create_bounded<item_64>, destroy_bounded<item_64>), false };
#endif
