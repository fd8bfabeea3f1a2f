// SPDX-License-Identifier: MIT
/* Stand-in for NVIDIA's nv-fabricmanager, for tests: runs only with an NVSwitch on the PCI bus and a driver of its version. */
#define _GNU_SOURCE
#include <dirent.h>
#include <string.h>
#include <syslog.h>

#include "daemon.h"

#define FOLDER "/run/nvidia-fabricmanager"
#define PID_FILE FOLDER "/nv-fabricmanager.pid"
#define BUS "/sys/bus/pci/devices"

static int read_word(const char *path, char *word, int size)
{
	FILE *f = fopen(path, "re");
	char *got = f ? fgets(word, size, f) : NULL;

	if (f)
		fclose(f);
	if (!got)
		return -1;
	word[strcspn(word, "\n")] = 0;
	return 0;
}

/* An NVSwitch is NVIDIA's function of class 0680, "other bridge". */
static int count_switches(void)
{
	char path[512], vendor[16], class[16];
	struct dirent *entry;
	int count = 0;
	DIR *bus = opendir(BUS);

	while (bus && (entry = readdir(bus))) {
		snprintf(path, sizeof(path), BUS "/%s/vendor", entry->d_name);
		if (entry->d_name[0] == '.' || read_word(path, vendor, sizeof(vendor)) || strcmp(vendor, "0x10de"))
			continue;
		snprintf(path, sizeof(path), BUS "/%s/class", entry->d_name);
		count += !read_word(path, class, sizeof(class)) && !strncmp(class, "0x0680", 6);
	}
	if (bus)
		closedir(bus);
	return count;
}

int main(void)
{
	char version[64];

	openlog("nv-fabricmanager", LOG_PERROR | LOG_PID, LOG_DAEMON);
	if (read_word("/sys/module/nvidia/version", version, sizeof(version))) {
		syslog(LOG_ERR, "Failed to initialize NVIDIA driver interface: the driver is not loaded");
		return 1;
	}
	if (strcmp(version, STANDIN_VERSION)) {
		syslog(LOG_ERR, "fabric manager NVIDIA GPU driver interface version %s don't match with driver version %s. "
				"Please update with matching NVIDIA driver package.", STANDIN_VERSION, version);
		return 1;
	}
	if (!count_switches()) {
		syslog(LOG_ERR, "request to query NVSwitch device information from NVSwitch driver failed with error:"
				"WARNING Nothing to do [NV_WARN_NOTHING_TO_DO]");
		return 1;
	}
	if (go_to_background(FOLDER, PID_FILE)) {
		syslog(LOG_ERR, "cannot go to the background with %s", PID_FILE);
		return 1;
	}
	syslog(LOG_NOTICE, "Successfully configured all the available NVSwitches (stand-in %s)", STANDIN_VERSION);
	wait_for_signal(PID_FILE);
	return 0;
}
