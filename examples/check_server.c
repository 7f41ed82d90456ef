/* SPDX-License-Identifier: MIT */
/*
 * check_server: the web server that fetch is checked with. Prints its port and one where nobody listens, and serves
 * on 127.0.0.1 until its standard input ends: /ok, /moved (to /ok), /cut (ends too early); anything else is missing.
 */
#include <arpa/inet.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <microhttpd.h>

static ssize_t cut_short(void *cls, uint64_t position, char *buffer, size_t size)
{
    (void)cls;
    if (position > 0)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    memset(buffer, '.', size);
    return (ssize_t)size;
}

static enum MHD_Result serve_page(void *cls, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *data, size_t *size, void **state)
{
    static char page[] = "0123456789";
    bool is_page = strcmp(url, "/ok") == 0;
    unsigned status = is_page ? MHD_HTTP_OK : MHD_HTTP_NOT_FOUND;
    struct MHD_Response *response;
    (void)cls, (void)method, (void)version, (void)data, (void)size, (void)state;

    if (strcmp(url, "/cut") == 0) {
        response = MHD_create_response_from_callback(1000, 100, cut_short, NULL, NULL);
    } else {
        response = MHD_create_response_from_buffer(is_page ? sizeof(page) - 1 : 0, page, MHD_RESPMEM_PERSISTENT);
        if (strcmp(url, "/moved") == 0) {
            status = MHD_HTTP_FOUND;
            MHD_add_response_header(response, MHD_HTTP_HEADER_LOCATION, "/ok");
        }
    }
    enum MHD_Result result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return result;
}

int main(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct MHD_Daemon *server = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD, 0, NULL, NULL, serve_page, NULL,
                                                 MHD_OPTION_SOCK_ADDR, (struct sockaddr *)&address, MHD_OPTION_END);
    if (!server) {
        perror("cannot start a server on 127.0.0.1");
        return 1;
    }

    socklen_t length = sizeof(address);
    int taken = socket(AF_INET, SOCK_STREAM, 0); /* holds a port without listening: to connect is refused */
    if (taken < 0 || bind(taken, (struct sockaddr *)&address, length) != 0 ||
        getsockname(taken, (struct sockaddr *)&address, &length) != 0) {
        perror("cannot hold a port on 127.0.0.1");
        return 1;
    }

    printf("%d %d\n", MHD_get_daemon_info(server, MHD_DAEMON_INFO_BIND_PORT)->port, ntohs(address.sin_port));
    fflush(stdout);
    while (getchar() != EOF)
        ;
    MHD_stop_daemon(server);
}
