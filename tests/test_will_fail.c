// layer: base
/* Compares a right number with a wrong one. CTest expects this program to fail: were a failed comparison ever to end in
 * success (a harness that returns 0, assertions compiled out), the suite would turn red here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/rng.h"

static void test_wrong_number(void **state) {
    (void)state;
    assert_int_equal(rng_u32((Rng){0, 0}, 0, 0), 0x6627e8d6); /* it is ...d5 */
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_wrong_number)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
