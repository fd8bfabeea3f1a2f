// SPDX-License-Identifier: MIT
/* Stand-in for NVIDIA's libcuda.so, for tests: it finds no device to compute on. */
#define CUDA_ERROR_NO_DEVICE 100

const char standin_version[] = "stand-in " STANDIN_VERSION;

int cuInit(unsigned int flags);
int cuInit(unsigned int flags)
{
	(void)flags;
	return CUDA_ERROR_NO_DEVICE;
}

int cuDriverGetVersion(int *version);
int cuDriverGetVersion(int *version)
{
	*version = 12020;
	return 0;
}
