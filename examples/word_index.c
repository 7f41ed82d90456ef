/* SPDX-License-Identifier: MIT */
/*
 * Four processes make one index of the words of a poem. All of it is in the shared heap, where a pointer means the same
 * in every process: whoever meets a new word allocates its entry and links it in; each letter has a lock of its own.
 */
#include <stdio.h>
#include <string.h>
#include <tandem.h>

static const char *const lines[] = {
    "twinkle twinkle little star",     "how i wonder what you are",     "up above the world so high",
    "like a diamond in the sky",       "when the blazing sun is gone",  "when he nothing shines upon",
    "then you show your little light", "twinkle twinkle all the night",
};
enum { LINES = sizeof lines / sizeof *lines, WORKERS = 4 };

struct entry {
    struct entry *next;
    int count;
    char word[];
};

struct index {
    int *next_line; /* a shared value */
    struct letter {
        td_lock lock;
        struct entry *first; /* in alphabetical order */
    } letters[26];
};

static int add(struct letter *letter, const char *word)
{
    td_lock_acquire(&letter->lock);
    struct entry **link = &letter->first;
    while (*link != NULL && strcmp((*link)->word, word) < 0)
        link = &(*link)->next;

    struct entry *entry = *link;
    if (entry == NULL || strcmp(entry->word, word) != 0) {
        entry = td_shared_calloc(1, sizeof *entry + strlen(word) + 1);
        if (entry != NULL) {
            strcpy(entry->word, word);
            entry->next = *link;
            *link = entry;
        }
    }
    if (entry != NULL)
        entry->count++;
    td_lock_release(&letter->lock);
    return entry != NULL ? 0 : td_last_error();
}

static int read_lines(td_call *call)
{
    struct index *index = td_arg_shared(call);
    int line;
    while ((line = td_shared_add(index->next_line, 1) - 1) < LINES) {
        char word[16];
        int length;
        for (const char *text = lines[line]; sscanf(text, "%15s%n", word, &length) == 1; text += length)
            if (add(&index->letters[word[0] - 'a'], word) < 0)
                return td_fail(call, 1, "%s", td_last_message());
    }
    return 0;
}

int main(void)
{
    td_init();

    struct index *index = td_shared_calloc(1, sizeof *index);
    if (index == NULL || (index->next_line = td_shared_value(int, 0)) == NULL) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1;
    }
    td_worker *workers[WORKERS];
    for (int i = 0; i < WORKERS; i++) {
        workers[i] = td_process(.target = read_lines, .args = TD_SHARED(index));
        td_start(workers[i]);
    }
    int failed = 0;
    for (int i = 0; i < WORKERS; i++) {
        td_join(workers[i]);
        if (td_outcome(workers[i]) != TD_RETURNED) {
            fprintf(stderr, "%s\n", td_describe(workers[i])); /* also if it could not be started */
            failed = 1;
        }
        td_free(workers[i]);
    }

    for (int i = 0; i < 26; i++) {
        if (index->letters[i].first == NULL)
            continue;
        printf("%c:", 'a' + i);
        for (struct entry *entry = index->letters[i].first, *next; entry != NULL; entry = next) {
            printf(" %s %d", entry->word, entry->count);
            next = entry->next;
            td_shared_free(entry); /* which another process has allocated */
        }
        printf("\n");
    }
    td_shared_free(index->next_line);
    td_shared_free(index);
    return failed;
}
