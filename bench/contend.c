/* SPDX-License-Identifier: MIT */
#include "contend.h"
#include "heap.h"

void *bench_contest_new(const bench_contender *contender, bool processes, size_t size)
{
    bench_contest *c = bench_allocate(contender->in_heap, size);
    c->contender = contender;
    c->processes = processes;
    c->size = size;
    if (contender->init)
        contender->init(c->lock, processes);
    return c;
}

void bench_contest_end(bench_contest *c)
{
    bench_give_back(c->contender->in_heap, c, c->size);
}

double bench_contest_alone(bench_contest *c, long n)
{
    bench_parts parts;
    c->contender->alone(c, n / 100);
    for (int i = 0; i <= BENCH_PARTS; i++) {
        parts.at[i] = bench_now();
        if (i < BENCH_PARTS)
            c->contender->alone(c, n / BENCH_PARTS);
    }
    return bench_part_ns(&parts, n / BENCH_PARTS);
}

static void take_turns(int index, void *argument)
{
    bench_contest *c = argument;
    if (c->processes)
        bench_have_second_thread();
    c->contender->turns(c, index);
}

int64_t bench_contest_run(bench_contest *c, int parties, long ms, uint64_t *turns)
{
    uint64_t writes = 0;
    bench_team *team = bench_team_create(parties, c->processes, take_turns, c);
    int64_t begin = bench_team_begin(team);
    bench_idle(ms * 1000000);
    atomic_store(&c->stop, true);
    int64_t ns = bench_team_end(team) - begin;
    *turns = 0;
    for (int i = 0; i < parties; i++) {
        *turns += c->member[i].turns;
        writes += c->member[i].writes;
    }
    if (c->writes != writes)
        bench_fail("two at once: %llu writes, counted %llu", (unsigned long long)writes, (unsigned long long)c->writes);
    return ns;
}
