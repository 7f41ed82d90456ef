/* SPDX-License-Identifier: MIT */
/*
 * In how many ways can eight queens stand on a chessboard, so that none attacks another? Four processes search. Boards
 * to go on with stand in a queue, last in, first out: the search goes deep first, and the queue stays short. It is
 * joinable, so that main hears when every board that was put has been dealt with.
 */
#include <stdio.h>
#include <tandem.h>

enum { SIZE = 8, WORKERS = 4 };

struct board {
    int queens;                        /* one in each of the first rows */
    unsigned columns, falling, rising; /* that are attacked in the next row, a bit each */
};

struct search {
    td_queue *boards;
    int *solutions; /* a shared value, with a lock of its own */
};

static int go_on(struct search *search, struct board board)
{
    if (board.queens == SIZE)
        return td_shared_add(search->solutions, 1);
    unsigned attacked = board.columns | board.falling | board.rising;
    for (unsigned queen = 1; queen < 1U << SIZE; queen <<= 1) {
        struct board next = { board.queens + 1, board.columns | queen, (board.falling | queen) << 1,
                              (board.rising | queen) >> 1 };
        if ((attacked & queen) == 0 && td_queue_put(search->boards, &next) < 0)
            return td_last_error();
    }
    return 0;
}

static int work(td_call *call)
{
    struct search *search = td_arg_shared(call);
    struct board board;
    while (td_queue_get(search->boards, &board) == 0) { /* until the queue is shut down */
        if (go_on(search, board) < 0)
            return td_fail(call, 1, "%s", td_last_message());
        td_queue_task_done(search->boards); /* the boards after it have been put before: not all is done yet */
    }
    return 0;
}

int main(void)
{
    td_init();

    struct search *search = td_shared_calloc(1, sizeof *search);
    if (search == NULL || (search->solutions = td_shared_value(int, 0)) == NULL ||
        (search->boards = td_queue_new(.item_size = sizeof(struct board), .kind = TD_QUEUE_LIFO, .joinable = true,
                                       .shared = true)) == NULL) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1;
    }
    td_queue_put(search->boards, &(struct board){ 0 });

    int failed = 0;
    td_worker *workers[WORKERS];
    for (int i = 0; i < WORKERS; i++) {
        workers[i] = td_process(.target = work, .args = TD_SHARED(search));
        failed |= td_start(workers[i]);
    }
    if (failed || td_queue_join_for(search->boards, td_s(60)) < 0) {
        fprintf(stderr, "%s\n", td_last_message());
        failed = 1;
    } else {
        printf("%d queens: %d ways\n", SIZE, td_shared_get(search->solutions));
    }
    td_queue_shutdown(search->boards, failed);
    for (int i = 0; i < WORKERS; i++) {
        td_join(workers[i]);
        td_free(workers[i]); /* tells of one that failed */
    }
    td_queue_free(search->boards);
    td_shared_free(search->solutions);
    td_shared_free(search);
    return failed;
}
