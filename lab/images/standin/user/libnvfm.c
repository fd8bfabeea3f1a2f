// SPDX-License-Identifier: MIT
/* Stand-in for NVIDIA's libnvfm.so, for tests: a client's library of fabric manager that knows its version and nothing else. */
const char standin_version[] = "stand-in " STANDIN_VERSION;
