/* The backends of a build with CUDA. */
#include "tensor/backend_int.h"

const BackendProvider *const backend_providers[] = {&backend_cpu, &backend_ref, &backend_cuda, NULL};
