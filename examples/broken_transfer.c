/* SPDX-License-Identifier: MIT */
/*
 * A clerk is killed in the middle of a transfer, with the lock in his hands: money has left one account and has not
 * reached the other. The lock is not lost: the next to acquire it has it, and is told, and can put things right.
 */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <tandem.h>

struct balance {
    long savings, current;
};

struct bank {
    td_lock lock;
    struct balance now, before; /* under the lock, as all below */
    atomic_bool changing;       /* `before` is what is true. Atomic, so that all is written in this order */
};

static int clerk(td_call *call)
{
    struct bank *bank = td_arg_shared(call);
    for (int amount = 10;; amount += 10) {
        if (td_lock_acquire(&bank->lock) != 0)
            return td_fail(call, 1, "no lock");
        bank->before = bank->now;
        bank->changing = true;
        bank->now.savings -= amount;
        if (amount == 30)
            raise(SIGKILL);
        bank->now.current += amount;
        bank->changing = false;
        td_lock_release(&bank->lock);
    }
}

static void show(const char *when, const struct bank *bank)
{
    printf("%s savings %ld, current %ld\n", when, bank->now.savings, bank->now.current);
}

static void repair(struct bank *bank)
{
    show("found:   ", bank);
    if (bank->changing) {
        bank->now = bank->before;
        bank->changing = false;
    }
}

int main(void)
{
    td_init();

    struct bank *bank = td_shared_calloc(1, sizeof *bank);
    if (bank == NULL) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1;
    }
    bank->now = (struct balance){ 100, 0 };
    show("at first:", bank);

    td_worker *worker = td_process(.target = clerk, .args = TD_SHARED(bank), .name = "clerk");
    if (td_start(worker) < 0) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1;
    }
    td_join(worker);
    printf("the clerk was %s\n", td_message(worker));
    td_free(worker);

    int code = td_lock_acquire(&bank->lock);
    if (code < 0) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1;
    }
    if (code == TD_OWNER_DIED)
        repair(bank);
    show("repaired:", bank);
    td_lock_release(&bank->lock); /* from here on it is a lock like any other */
    td_shared_free(bank);
}
