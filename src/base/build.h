/* base/build.h — which build of the program this is. */
#ifndef DIKAST_BASE_BUILD_H
#define DIKAST_BASE_BUILD_H

#include "base/compiler.h"

enum { BUILD_ID_MAX = 65 };
/* The build ID that the linker made from the contents of what this code is linked into (program or library), as lower-case hexadecimal
 * digits: other code, another ID. "" where the linker writes none. */
void build_id(char out[BUILD_ID_MAX]);

#endif
