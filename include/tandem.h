/* SPDX-License-Identifier: MIT */
/* Tandem: write a function once, run it on a thread or in a process by changing one word. */
#ifndef TANDEM_H
#define TANDEM_H

#include <tandem/base.h>
#include <tandem/call.h>
#include <tandem/connection.h>
#include <tandem/init.h>
#include <tandem/shared.h>

#include <tandem/queue.h>
#include <tandem/sync.h>
#include <tandem/timer.h>
#include <tandem/wait.h>
#include <tandem/worker.h>

#endif
