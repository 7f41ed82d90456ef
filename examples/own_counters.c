/* SPDX-License-Identifier: MIT */
/*
 * Four threads count words in a table that the first of them makes, each in a counter of its own, and add that to the
 * total when they end.
 */
#include <stdio.h>
#include <string.h>
#include <tandem.h>

static td_once made;
static const char *words[6];

static int make_table(void *argument)
{
    (void)argument;
    puts("The table is made");
    static char text[] = "one word of six or so";
    for (int i = 0; i < 6; i++)
        words[i] = strtok(i == 0 ? text : NULL, " ");
    return 0;
}

static long total;
static td_lock total_lock;

static void add_to_total(void *value, void *context)
{
    (void)context;
    td_lock_acquire(&total_lock);
    total += *(long *)value;
    td_lock_release(&total_lock);
}

static td_local counter = { .size = sizeof(long), .destroy = add_to_total };

static int count(td_call *call)
{
    (void)call;
    for (int round = 0; round < 1000; round++) {
        int r = td_once_run(&made, make_table, NULL);
        long *mine = td_local_get(&counter);
        if (r < 0 || !mine)
            return td_last_error();
        for (int i = 0; i < 6; i++)
            *mine += words[i] != NULL;
    }
    return 0;
}

int main(void)
{
    td_worker *threads[4];

    td_init();
    for (int i = 0; i < 4; i++) {
        threads[i] = td_thread(.target = count);
        td_start(threads[i]);
    }
    td_join_all(threads, 4);
    for (int i = 0; i < 4; i++)
        td_free(threads[i]);
    printf("%ld words\n", total);
}
