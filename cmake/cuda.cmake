# The CUDA backend (DIKAST_CUDA: preset cuda), or, in builds without it, the same kernels on an emulated GPU for tests.
# Gives: tensor_providers (sources of dikast_tensor), cuda_test_library (linked first by tests that open backend "cuda").
set(tensor_providers ${CMAKE_SOURCE_DIR}/src/tensor/providers.c)
set(cuda_test_library "")

if(DIKAST_CUDA)
    if(NOT CMAKE_CUDA_COMPILER)
        find_program(nvcc nvcc HINTS ENV CUDA_HOME PATH_SUFFIXES bin PATHS /usr/local/cuda/bin)
        if(NOT nvcc)
            message(FATAL_ERROR "DIKAST_CUDA: nvcc is neither in PATH nor in /usr/local/cuda/bin; install the CUDA toolkit (12.4 or "
                                "newer) or set CUDA_HOME")
        endif()
        set(CMAKE_CUDA_COMPILER ${nvcc})
    endif()
    # Ampere; Hopper with all it has; and PTX, from which drivers make code for what comes later.
    if(NOT CMAKE_CUDA_ARCHITECTURES)
        set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real 90-virtual)
    endif()
    set(CMAKE_CUDA_STANDARD 17)
    set(CMAKE_CUDA_FLAGS_RELEASE "-O3")
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    target_compile_options(dikast_flags INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:
        --fmad=true -Xcompiler=-Wall,-Wno-unknown-pragmas,-Wno-enum-compare,-fvisibility=hidden $<$<BOOL:${DIKAST_WERROR}>:-Werror=all-warnings>>)
    # Products of warp groups are of sm_90a and of nothing else; who runs them is decided by the device (CudaImpl.hopper).
    set(hopper_sources ${cuda_sources})
    list(FILTER hopper_sources INCLUDE REGEX "_wgmma[^/]*\\.cu$")
    list(FILTER cuda_sources EXCLUDE REGEX "_wgmma[^/]*\\.cu$")
    add_library(dikast_tensor_hopper OBJECT ${hopper_sources})
    set_target_properties(dikast_tensor_hopper PROPERTIES CUDA_ARCHITECTURES 90a-real)
    target_link_libraries(dikast_tensor_hopper PUBLIC dikast_flags)
    target_compile_options(dikast_tensor_hopper PRIVATE -Xptxas=--warn-on-spills)
    set(tensor_providers ${CMAKE_SOURCE_DIR}/src/tensor/providers_cuda.c ${cuda_sources} $<TARGET_OBJECTS:dikast_tensor_hopper>)
    target_link_libraries(dikast_flags INTERFACE CUDA::cudart_static ${CMAKE_DL_LIBS})
    set(cuda_test_library dikast_tensor)
    return()
endif()

include(CheckLanguage)
check_language(CXX)
if(CMAKE_CXX_COMPILER)
    enable_language(CXX)
    set(device_sources ${cuda_sources})
    list(FILTER device_sources INCLUDE REGEX "\\.cu$")
    set(host_sources ${cuda_sources})
    list(FILTER host_sources EXCLUDE REGEX "(\\.cu|/driver\\.c)$")
    set_source_files_properties(${device_sources} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++")
    add_library(dikast_tensor_emu STATIC EXCLUDE_FROM_ALL $<TARGET_OBJECTS:dikast_tensor_common> src/tensor/providers_cuda.c
        ${host_sources} ${device_sources} src/tensor/cuda/emu/emu.cc src/tensor/cuda/emu/hopper.cc
        tests/emu/driver_emu.c)
    target_link_libraries(dikast_tensor_emu PUBLIC dikast_flags dikast_base)
    target_include_directories(dikast_tensor_emu BEFORE PRIVATE src/tensor/cuda/emu tests)
    # What kernels fuse they say, and without an instruction for it each is a call; the compiler fuses nothing.
    include(CheckCSourceRuns)
    check_c_source_runs("int main(void) { return !(__builtin_cpu_supports(\"avx2\") && __builtin_cpu_supports(\"fma\")); }" has_fma)
    target_compile_options(dikast_tensor_emu PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-std=c++17 -O2 -ffp-contract=off
        $<$<BOOL:${has_fma}>:-mavx2 -mfma> -Wall -Wno-unknown-pragmas -Wno-enum-compare $<$<BOOL:${DIKAST_WERROR}>:-Werror>>)
    set_source_files_properties(src/tensor/cuda/emu/emu.cc src/tensor/cuda/emu/hopper.cc PROPERTIES COMPILE_OPTIONS -O3)
    # Not among the program's libraries, whose globals are checked.
    set_target_properties(dikast_tensor_emu PROPERTIES ARCHIVE_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/emu)
    set(cuda_test_library dikast_tensor_emu)
endif()
