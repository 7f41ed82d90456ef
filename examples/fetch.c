/* SPDX-License-Identifier: MIT */
/*
 * fetch [URL...]: downloads every URL at the same time, each on a thread of its own.
 * Without arguments it fetches 20 pages from a slow server that it starts itself.
 */
#define _POSIX_C_SOURCE 200809L
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <curl/curl.h>
#include <microhttpd.h>
#include <tandem.h>

enum { PAGES = 20, PAGE_MS = 200 };

static size_t count_bytes(char *data, size_t size, size_t count, void *total)
{
    (void)data;
    *(size_t *)total += size * count;
    return size * count;
}

static int fetch(td_call *call)
{
    const char *url = td_arg_str(call);
    char error[CURL_ERROR_SIZE] = "";
    size_t bytes = 0;

    CURL *curl = curl_easy_init();
    if (!curl)
        return td_fail(call, 1, "out of memory");
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(curl, CURLOPT_MAXREDIRS, 10L);
    curl_easy_setopt(curl, CURLOPT_ACCEPT_ENCODING, "");
    curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L); /* HTTP status 400 and above */
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 10L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, 60L);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L); /* no SIGALRM: there are other threads */
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, error);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, count_bytes);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &bytes);
    CURLcode code = curl_easy_perform(curl);
    curl_easy_cleanup(curl);

    if (code != CURLE_OK)
        return td_fail(call, 1, "%s", error[0] ? error : curl_easy_strerror(code));
    printf("Data from %s: %zu bytes\n", url, bytes);
    return 0;
}

/* Returns how many could not be fetched. */
static int fetch_all(int count, char **urls)
{
    td_worker **threads = calloc((size_t)count, sizeof(*threads));
    if (!threads) {
        fprintf(stderr, "cannot fetch %d pages: out of memory\n", count);
        return count;
    }

    for (int i = 0; i < count; i++) {
        threads[i] = td_thread(.target = fetch, .args = TD_STR(urls[i]));
        if (td_start(threads[i]) < 0)
            fprintf(stderr, "cannot fetch '%s': %s\n", urls[i], td_last_message());
    }

    int failed = 0;
    for (int i = 0; i < count; i++) {
        bool ended = td_join(threads[i]) == 0;
        bool fetched = td_outcome(threads[i]) == TD_RETURNED;
        if (ended && !fetched)
            fprintf(stderr, "cannot fetch '%s': %s\n", urls[i], td_message(threads[i]));
        failed += !fetched;
        td_free(threads[i]);
    }
    free(threads);
    return failed;
}

/* The local server: every page takes its time. */

static enum MHD_Result serve_page(void *cls, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *data, size_t *size, void **state)
{
    static char page[] = "<!DOCTYPE html><title>Tandem</title><p>A page from a slow server.</p>\n";
    (void)cls, (void)url, (void)method, (void)version, (void)data, (void)size, (void)state;

    nanosleep(&(struct timespec){ .tv_nsec = PAGE_MS * 1000000L }, NULL);
    struct MHD_Response *response = MHD_create_response_from_buffer(sizeof(page) - 1, page, MHD_RESPMEM_PERSISTENT);
    enum MHD_Result result = MHD_queue_response(connection, MHD_HTTP_OK, response);
    MHD_destroy_response(response);
    return result;
}

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int fetch_from_local_server(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) }; /* any port */
    struct MHD_Daemon *server =
        MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION, 0, NULL, NULL, serve_page,
                         NULL, MHD_OPTION_SOCK_ADDR, (struct sockaddr *)&address, MHD_OPTION_END);
    if (!server) {
        perror("cannot start a server on 127.0.0.1");
        return 1;
    }
    int port = MHD_get_daemon_info(server, MHD_DAEMON_INFO_BIND_PORT)->port;
    setenv("no_proxy", "127.0.0.1", 1); /* the server is here, whatever proxy leads to the others */

    char text[PAGES][64], *urls[PAGES];
    for (int i = 0; i < PAGES; i++) {
        snprintf(text[i], sizeof(text[i]), "http://127.0.0.1:%d/page/%d", port, i + 1);
        urls[i] = text[i];
    }

    double start = seconds_now();
    int failed = fetch_all(PAGES, urls);
    double elapsed = seconds_now() - start;

    MHD_stop_daemon(server);
    if (failed == 0)
        printf("%d pages of %d ms each in %.2f s; one after the other they take %.2f s\n", PAGES, PAGE_MS, elapsed,
               PAGES * PAGE_MS / 1000.0);
    return failed;
}

int main(int argc, char **argv)
{
    td_init();
    signal(SIGPIPE, SIG_IGN); /* a server that hangs up costs its page, not the program */

    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        fprintf(stderr, "cannot initialise libcurl\n");
        return 1;
    }
    int failed = argc > 1 ? fetch_all(argc - 1, argv + 1) : fetch_from_local_server();
    curl_global_cleanup();
    return failed > 0;
}
