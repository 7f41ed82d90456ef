/* SPDX-License-Identifier: MIT */
/*
 * A bank whose every operation takes the bank's lock. A transfer is made of two deposits, under the same lock: it is
 * an RLock, which its owner may acquire again. Nobody sees money that is on its way.
 */
#include <stdio.h>
#include <tandem.h>

enum { ACCOUNTS = 3, CUSTOMERS = 3, TRANSFERS = 5000, DEPOSIT = 100 };

struct bank {
    td_rlock lock;
    long balance[ACCOUNTS];
};

static void deposit(struct bank *bank, int account, long amount)
{
    td_rlock_acquire(&bank->lock);
    bank->balance[account] += amount;
    td_rlock_release(&bank->lock);
}

static void transfer(struct bank *bank, int from, int to, long amount)
{
    td_rlock_acquire(&bank->lock); /* so that both steps are one for everybody else */
    deposit(bank, from, -amount);
    deposit(bank, to, amount);
    td_rlock_release(&bank->lock); /* free only now: as often as it was acquired */
}

static long total(struct bank *bank)
{
    long sum = 0;
    td_rlock_acquire(&bank->lock);
    for (int i = 0; i < ACCOUNTS; i++)
        sum += bank->balance[i];
    td_rlock_release(&bank->lock);
    return sum;
}

static int customer(td_call *call)
{
    struct bank *bank = td_arg_shared(call);
    for (int i = 0; i < TRANSFERS; i++) {
        transfer(bank, i % ACCOUNTS, (i + 1) % ACCOUNTS, i % 50);
        long sum = total(bank);
        if (sum != (long)ACCOUNTS * DEPOSIT)
            return td_fail(call, 1, "the bank has %ld after transfer %d", sum, i);
    }
    return 0;
}

int main(void)
{
    td_init();

    struct bank *bank = td_shared_calloc(1, sizeof *bank);
    if (bank == NULL) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1;
    }
    for (int i = 0; i < ACCOUNTS; i++)
        deposit(bank, i, DEPOSIT);

    td_worker *customers[CUSTOMERS];
    for (int i = 0; i < CUSTOMERS; i++) {
        customers[i] = td_process(.target = customer, .args = TD_SHARED(bank));
        td_start(customers[i]);
    }
    int satisfied = 0;
    for (int i = 0; i < CUSTOMERS; i++) {
        td_join(customers[i]);
        if (td_outcome(customers[i]) == TD_RETURNED)
            satisfied++;
        else
            fprintf(stderr, "%s\n", td_describe(customers[i])); /* also if it could not be started */
        td_free(customers[i]);
    }

    printf("%d customers made %d transfers each; the bank has %ld\n", satisfied, TRANSFERS, total(bank));
    td_shared_free(bank);
    return satisfied != CUSTOMERS;
}
