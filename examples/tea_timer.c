/* SPDX-License-Identifier: MIT */
/* Two timers: one calls, one is cancelled before its time. */
#include <stdio.h>
#include <tandem.h>

static int say(td_call *call)
{
    printf("%s\n", td_arg_str(call));
    return 0;
}

int main(void)
{
    td_init();

    td_worker *tea = td_timer(.interval = td_ms(50), .target = say, .args = TD_STR("The tea is ready"));
    td_worker *alarm = td_timer(.interval = td_s(3600), .target = say, .args = TD_STR("Too late"), .name = "alarm");
    td_start(alarm);
    td_start(tea);
    td_join(tea);
    td_free(tea);

    if (td_timer_cancel(alarm) == 0)
        puts("No alarm");
    td_join(alarm); /* at once */
    printf("The alarm: %s\n", td_state_name(td_outcome(alarm)));
    td_free(alarm);
}
