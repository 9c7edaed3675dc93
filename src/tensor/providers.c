/* The backends of a build without CUDA. */
#include "tensor/backend_int.h"

static const BackendProvider no_cuda = {
    .name = "cuda",
    .absent = "this build has none: configure one with 'cmake --preset cuda' where the CUDA toolkit's nvcc is, "
              "build it and run build/cuda/dikast"};

const BackendProvider *const backend_providers[] = {&backend_cpu, &backend_ref, &no_cuda, NULL};
