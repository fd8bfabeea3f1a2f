/* Stand-in of NVIDIA's nv_fm_agent.h, for tests: it declares nothing. */
