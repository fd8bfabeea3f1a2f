/* SPDX-License-Identifier: MIT */
/* What the stand-in daemons share: going to the background with a pid file, and waiting for the end. */
#ifndef STANDIN_DAEMON_H
#define STANDIN_DAEMON_H

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static volatile sig_atomic_t stopped;

static void on_signal(int number)
{
	(void)number;
	stopped = 1;
}

/* Returns in the child, which has written its pid into folder/file; the parent ends once that is done. */
static int go_to_background(const char *folder, const char *file)
{
	int ready[2];
	char byte = 0;
	FILE *f;
	pid_t pid;

	mkdir(folder, 0755);
	if (pipe(ready))
		return -1;
	pid = fork();
	if (pid < 0)
		return -1;
	if (pid > 0) {
		close(ready[1]);
		_exit(read(ready[0], &byte, 1) == 1 ? 0 : 1);
	}
	setsid();
	f = fopen(file, "we");
	if (!f || fprintf(f, "%d\n", getpid()) < 0 || fclose(f))
		_exit(1);
	signal(SIGTERM, on_signal);
	signal(SIGINT, on_signal);
	return write(ready[1], &byte, 1) == 1 && !close(ready[0]) && !close(ready[1]) ? 0 : -1;
}

static void wait_for_signal(const char *file)
{
	while (!stopped)
		pause();
	unlink(file);
}

#endif
