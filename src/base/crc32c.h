/* base/crc32c.h — CRC-32C (Castagnoli, reflected polynomial 0x82f63b78; RFC 3720, appendix B.4): any error of one bit and any burst
 * of up to 32 bits is found for certain. SSE4.2's instruction where the machine has it, a table otherwise; equal results. */
#ifndef DIKAST_BASE_CRC32C_H
#define DIKAST_BASE_CRC32C_H

#include "base/compiler.h"

#ifdef __cplusplus
extern "C" {
#endif

uint32_t crc32c(uint32_t crc, const void *p, size_t n);         /* crc: 0, or of the bytes before; crc32c(0, "123456789") = e3069283 */
uint32_t crc32c_table(uint32_t crc, const void *p, size_t n);   /* the table's, for tests */

#ifdef __cplusplus
}
#endif

#endif
