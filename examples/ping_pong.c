/* SPDX-License-Identifier: MIT */
/* Main and another process play with a ball over a pipe; the game ends when main hangs up. */
#include <stdio.h>
#include <tandem.h>

static int player(td_call *call)
{
    td_connection *table = td_call_connection(call, 0);
    int ball, returned = 0;

    while (td_recv_value(table, int, &ball) == 0) {
        ball++;
        if (td_send_value(table, TD_VAL(ball)) < 0)
            break;
        returned++;
    }
    if (td_last_error() != TD_ECLOSED)
        return td_fail(call, 1, "%s", td_last_message());
    return td_return(call, int, returned);
}

int main(void)
{
    td_init();

    td_connection *ours, *theirs;
    if (td_pipe_duplex(&ours, &theirs) < 0) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1;
    }
    td_worker *process = td_process(.target = player, .connections = TD_CONNECTIONS(theirs));
    if (td_start(process) < 0) {
        fprintf(stderr, "%s\n", td_last_message());
        return 1;
    }
    td_connection_free(theirs); /* the player has its own */

    for (int ball = 0; ball < 6; ball++) {
        printf("ping %d\n", ball);
        if (td_send_value(ours, TD_VAL(ball)) < 0 || td_recv_value(ours, int, &ball) < 0) {
            fprintf(stderr, "%s\n", td_last_message());
            return 1;
        }
        printf("pong %d\n", ball);
    }
    td_connection_free(ours);

    int returned = 0;
    td_join(process);
    if (td_result(process, int, &returned) < 0)
        fprintf(stderr, "%s\n", td_last_message());
    printf("%d balls returned\n", returned);
    td_free(process);
}
