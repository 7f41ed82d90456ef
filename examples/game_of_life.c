/* SPDX-License-Identifier: MIT */
/*
 * Conway's game of life, each process on a strip of the board. Nobody may begin a generation before everybody has ended
 * the one before: they meet at a barrier, and the last one to arrive turns the page before all of them go on.
 */
#include <stdio.h>
#include <string.h>
#include <tandem.h>

enum { WORKERS = 4, ROWS = 8, COLUMNS = 12, GENERATIONS = 20 };

struct board {
    char cell[ROWS][COLUMNS + 1];
};

struct world {
    td_barrier barrier;
    int generation;         /* changes while all are at the barrier */
    struct board boards[2]; /* of this generation and of the next one, in turn */
};

struct strip {
    struct world *world;
    int top;
};

static char next(const struct board *board, int row, int column)
{
    int neighbours = 0;
    for (int i = 0; i < 9; i++)
        if (i != 4 && board->cell[(row + i / 3 + ROWS - 1) % ROWS][(column + i % 3 + COLUMNS - 1) % COLUMNS] == '#')
            neighbours++;
    return neighbours == 3 || (neighbours == 2 && board->cell[row][column] == '#') ? '#' : '.';
}

static int turn_page(void *world)
{
    ((struct world *)world)->generation++;
    return 0;
}

static int live(td_call *call)
{
    struct strip strip = td_arg(call, struct strip);
    struct world *world = strip.world;
    while (world->generation < GENERATIONS) {
        const struct board *now = &world->boards[world->generation % 2];
        struct board *then = &world->boards[(world->generation + 1) % 2];
        for (int row = strip.top; row < strip.top + ROWS / WORKERS; row++)
            for (int column = 0; column < COLUMNS; column++)
                then->cell[row][column] = next(now, row, column);
        if (td_barrier_wait_action(&world->barrier, turn_page, world) < 0)
            return td_fail(call, 1, "%s", td_last_message());
    }
    return 0;
}

static void show(const struct world *world)
{
    printf("generation %d\n", world->generation);
    for (int row = 0; row < ROWS; row++)
        printf("%s\n", world->boards[world->generation % 2].cell[row]);
}

int main(void)
{
    static const char glider[3][4] = { ".#.", "..#", "###" };

    td_init();
    struct world *world = td_shared_calloc(1, sizeof *world);
    if (world == NULL) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1;
    }
    td_barrier_init(&world->barrier, WORKERS);
    for (int row = 0; row < ROWS; row++) {
        memset(world->boards[0].cell[row], '.', COLUMNS);
        if (row < 3)
            memcpy(world->boards[0].cell[row], glider[row], 3);
    }
    show(world);

    td_worker *workers[WORKERS];
    for (int i = 0; i < WORKERS; i++) {
        workers[i] = td_process(.target = live, .args = TD_ARG(struct strip, world, i * ROWS / WORKERS));
        if (td_start(workers[i]) < 0)
            td_barrier_abort(&world->barrier); /* one is missing: the others are not to wait for it */
    }
    int failures = 0;
    for (int i = 0; i < WORKERS; i++) {
        td_join(workers[i]);
        if (td_outcome(workers[i]) != TD_RETURNED) {
            fprintf(stderr, "%s\n", td_describe(workers[i]));
            failures++;
        }
        td_free(workers[i]);
    }
    show(world);
    td_shared_free(world);
    return failures;
}
