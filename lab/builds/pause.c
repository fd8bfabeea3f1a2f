// SPDX-License-Identifier: GPL-3.0-or-later
/* The only program of the lab's pod image: without arguments it waits for ever, like a pod's first container; else it prints them. */
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc == 1)
		for (;;)
			pause();
	for (int i = 1; i < argc; i++)
		puts(argv[i]);
	return 0;
}
