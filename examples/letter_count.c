/* SPDX-License-Identifier: MIT */
/* Four processes count the letters of a poem, each a part of it, in one array that they share. */
#include <ctype.h>
#include <stdio.h>
#include <tandem.h>

static const char *const lines[] = {
    "I wandered lonely as a cloud",        "That floats on high o'er vales and hills,",
    "When all at once I saw a crowd,",     "A host, of golden daffodils;",
    "Beside the lake, beneath the trees,", "Fluttering and dancing in the breeze.",
};
enum { LINES = sizeof lines / sizeof *lines, PROCESSES = 4 };

struct board {
    int *next;     /* the line that nobody has taken yet: a value with a lock */
    long *letters; /* how often each has been met: an array with one */
};

static int count_letters(td_call *call)
{
    struct board *board = td_arg_shared(call);
    for (;;) {
        int line = td_shared_add(board->next, 1) - 1;
        if (line >= LINES)
            return 0;
        for (const char *c = lines[line]; *c; c++)
            if (isalpha((unsigned char)*c))
                td_shared_add_at(board->letters, (size_t)(tolower((unsigned char)*c) - 'a'), 1);
    }
}

int main(void)
{
    td_init();

    struct board *board = td_shared_calloc(1, sizeof *board);
    td_worker *worker[PROCESSES];
    if (board == NULL || (board->next = td_shared_value(int, 0)) == NULL ||
        (board->letters = td_shared_array(long, 26)) == NULL) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1;
    }

    for (int i = 0; i < PROCESSES; i++) {
        worker[i] = td_process(.target = count_letters, .args = TD_SHARED(board));
        if (td_start(worker[i]) < 0) {
            fprintf(stderr, "%s\n", td_last_message());
            return 1;
        }
    }
    td_join_all(worker, PROCESSES);
    for (int i = 0; i < PROCESSES; i++)
        td_free(worker[i]);

    long all = 0;
    for (size_t i = 0; i < td_shared_count(board->letters); i++) {
        printf("%c %ld\n", (int)('a' + i), board->letters[i]);
        all += board->letters[i];
    }
    printf("%ld letters\n", all);

    td_shared_free(board->letters);
    td_shared_free(board->next);
    td_shared_free(board);
}
