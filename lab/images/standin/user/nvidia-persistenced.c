// SPDX-License-Identifier: MIT
/* Stand-in for NVIDIA's nvidia-persistenced, for tests: holds every GPU's device file open, so that the module is in use. */
#define _GNU_SOURCE
#include <syslog.h>

#include "daemon.h"

#define FOLDER "/run/nvidia-persistenced"
#define PID_FILE FOLDER "/nvidia-persistenced.pid"
#define MAX_GPUS 32

int main(void)
{
	char path[32];
	int opened = 0;

	openlog("nvidia-persistenced", LOG_PERROR | LOG_PID, LOG_DAEMON);
	for (int i = 0; i < MAX_GPUS; i++) {
		snprintf(path, sizeof(path), "/dev/nvidia%d", i);
		opened += open(path, O_RDWR | O_CLOEXEC) >= 0;
	}
	if (!opened) {
		syslog(LOG_ERR, "Failed to query NVIDIA devices. Please ensure that the NVIDIA device files (/dev/nvidia*) exist, "
				"and that user 0 has read and write permissions for those files.");
		return 1;
	}
	if (go_to_background(FOLDER, PID_FILE)) {
		syslog(LOG_ERR, "cannot go to the background with %s", PID_FILE);
		return 1;
	}
	syslog(LOG_NOTICE, "Started (stand-in %s), %d device(s)", STANDIN_VERSION, opened);
	wait_for_signal(PID_FILE);
	syslog(LOG_NOTICE, "Shutdown (stand-in)");
	return 0;
}
