/* The plain kernel, compiled for AVX2, FMA and F16C. */
#define MULTIPLY multiply_avx2
#include "plain.c"
