#include "includes.h"

#define USSFAST_TABLE kernels_generic
#include "all.h"
