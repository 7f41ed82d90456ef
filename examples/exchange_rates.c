/* SPDX-License-Identifier: MIT */
/*
 * A table of exchange rates: three traders read it all the time, the bank changes it once a day. The read-write lock
 * lets traders in together, and keeps them out while rates of two days stand side by side.
 */
#include <stdio.h>
#include <tandem.h>

enum { CURRENCIES = 8, TRADERS = 3, DAYS = 365 };

struct table {
    td_semaphore present; /* traders who have come */
    td_rwlock lock;
    struct rate {
        int day;
        double price;
    } rates[CURRENCIES];
};

static int trade(td_call *call)
{
    struct table *table = td_arg_shared(call);
    td_semaphore_release(&table->present);
    for (int day = 0; day < DAYS;) {
        if (td_rwlock_acquire_read(&table->lock) < 0)
            return td_fail(call, 1, "%s", td_last_message());
        day = table->rates[0].day;
        int others = 0;
        for (int i = 1; i < CURRENCIES; i++)
            others += table->rates[i].day != day;
        td_rwlock_release(&table->lock);
        if (others > 0)
            return td_fail(call, 1, "on day %d, %d rates were of another day", day, others);
    }
    return 0;
}

static void publish(struct table *table, int day)
{
    td_rwlock_acquire_write(&table->lock);
    for (int i = 0; i < CURRENCIES; i++)
        table->rates[i] = (struct rate){ day, 1.0 + 0.001 * day * i };
    td_rwlock_release(&table->lock);
}

int main(void)
{
    td_worker *traders[TRADERS];

    td_init();
    struct table *table = td_shared_calloc(1, sizeof *table);
    if (table == NULL) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1;
    }
    for (int i = 0; i < TRADERS; i++) {
        traders[i] = td_process(.target = trade, .args = TD_SHARED(table));
        if (td_start(traders[i]) == 0)
            td_semaphore_acquire(&table->present);
    }
    for (int day = 1; day <= DAYS; day++)
        publish(table, day);

    int content = 0;
    for (int i = 0; i < TRADERS; i++) {
        td_join(traders[i]);
        if (td_outcome(traders[i]) == TD_RETURNED)
            content++;
        else
            fprintf(stderr, "%s\n", td_describe(traders[i]));
        td_free(traders[i]);
    }
    printf("%d days, %d traders, and none saw the rates of two days at once\n", DAYS, content);
    td_shared_free(table);
    return content != TRADERS;
}
