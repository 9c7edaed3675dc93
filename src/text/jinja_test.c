/* jinja_test.c — what stands after "is". */
#include "text/jinja_int.h"

#include <string.h>

typedef bool TestFn(Jx *x, JVal v, JVal arg);

static bool test_defined(Jx *x, JVal v, JVal arg) { return (void)x, (void)arg, v.kind != J_UNDEF; }
static bool test_undefined(Jx *x, JVal v, JVal arg) { return (void)x, (void)arg, v.kind == J_UNDEF; }
static bool test_none(Jx *x, JVal v, JVal arg) { return (void)x, (void)arg, v.kind == J_NONE; }
static bool test_boolean(Jx *x, JVal v, JVal arg) { return (void)x, (void)arg, v.kind == J_BOOL; }
static bool test_true(Jx *x, JVal v, JVal arg) { return (void)x, (void)arg, v.kind == J_BOOL && v.u.b; }
static bool test_false(Jx *x, JVal v, JVal arg) { return (void)x, (void)arg, v.kind == J_BOOL && !v.u.b; }
static bool test_integer(Jx *x, JVal v, JVal arg) { return (void)x, (void)arg, j_integer(v) && v.kind != J_BOOL; }
static bool test_float(Jx *x, JVal v, JVal arg) { return (void)x, (void)arg, v.kind == J_FLOAT; }
static bool test_number(Jx *x, JVal v, JVal arg) { return (void)x, (void)arg, j_number(v); }
static bool test_string(Jx *x, JVal v, JVal arg) { return (void)x, (void)arg, v.kind == J_STR; }
static bool test_mapping(Jx *x, JVal v, JVal arg) { return (void)x, (void)arg, v.kind == J_DICT; }
static bool test_callable(Jx *x, JVal v, JVal arg) { return (void)x, (void)arg, j_callable(v); }
static bool test_iterable(Jx *x, JVal v, JVal arg) { return (void)x, (void)arg, j_iterable(v); }
static bool test_escaped(Jx *x, JVal v, JVal arg) { return (void)x, (void)arg, v.kind == J_STR && v.u.str->markup; }
static bool test_sameas(Jx *x, JVal v, JVal arg) { return (void)x, j_same(v, arg); }

static bool test_sequence(Jx *x, JVal v, JVal arg) {
    (void)x, (void)arg;
    return v.kind == J_UNDEF || v.kind == J_STR || j_is_seq(v) || v.kind == J_DICT || v.kind == J_RANGE;
}

static bool remainder_is(Jx *x, JVal v, JVal by, int64_t want) {
    JVal rest = jx_arith(x, N_MOD, v, by);
    return !x->failed && jx_equal(x, rest, j_int(want));
}

static bool test_odd(Jx *x, JVal v, JVal arg) { return (void)arg, remainder_is(x, v, j_int(2), 1); }
static bool test_even(Jx *x, JVal v, JVal arg) { return (void)arg, remainder_is(x, v, j_int(2), 0); }
static bool test_divisibleby(Jx *x, JVal v, JVal arg) { return remainder_is(x, v, arg, 0); }

static bool has_case(Jx *x, JVal v, const char *method) {
    JVal text = jx_text(x, v);
    return !x->failed && j_truth(j_str_method(method)->fn(x, text, NULL));
}

static bool test_lower(Jx *x, JVal v, JVal arg) { return (void)arg, has_case(x, v, "islower"); }
static bool test_upper(Jx *x, JVal v, JVal arg) { return (void)arg, has_case(x, v, "isupper"); }
static bool test_in(Jx *x, JVal v, JVal arg) { return jx_contains(x, arg, v); }
static bool test_eq(Jx *x, JVal v, JVal arg) { return jx_equal(x, v, arg); }
static bool test_ne(Jx *x, JVal v, JVal arg) { return !jx_equal(x, v, arg); }

static bool order_is(Jx *x, JVal v, JVal arg, bool less, bool equal) {
    int o = jx_order(x, v, arg);
    return !x->failed && o != 2 && (o == 0 ? equal : (o < 0) == less);
}

static bool test_lt(Jx *x, JVal v, JVal arg) { return order_is(x, v, arg, true, false); }
static bool test_le(Jx *x, JVal v, JVal arg) { return order_is(x, v, arg, true, true); }
static bool test_gt(Jx *x, JVal v, JVal arg) { return order_is(x, v, arg, false, false); }
static bool test_ge(Jx *x, JVal v, JVal arg) { return order_is(x, v, arg, false, true); }

static bool named(Jx *x, JVal v, int (*find)(const JStr *name)) {
    if (v.kind == J_STR) return find(v.u.str) >= 0;
    if (!j_hashable(v)) jx_fail(x, "unhashable type: '%s'", j_type(v));
    return false;
}

static bool test_filter(Jx *x, JVal v, JVal arg) { return (void)arg, named(x, v, j_find_filter); }
static bool test_test(Jx *x, JVal v, JVal arg) { return (void)arg, named(x, v, j_find_test); }

/* The name of the argument, NULL: it takes none. Those of Python's operators have none to give by. */
static const struct {
    const char *name;
    TestFn *fn;
    const char *arg;
} tests[] = {{"defined", test_defined, NULL},
             {"undefined", test_undefined, NULL},
             {"none", test_none, NULL},
             {"string", test_string, NULL},
             {"mapping", test_mapping, NULL},
             {"iterable", test_iterable, NULL},
             {"sequence", test_sequence, NULL},
             {"number", test_number, NULL},
             {"integer", test_integer, NULL},
             {"float", test_float, NULL},
             {"boolean", test_boolean, NULL},
             {"true", test_true, NULL},
             {"false", test_false, NULL},
             {"odd", test_odd, NULL},
             {"even", test_even, NULL},
             {"divisibleby", test_divisibleby, "num"},
             {"lower", test_lower, NULL},
             {"upper", test_upper, NULL},
             {"callable", test_callable, NULL},
             {"sameas", test_sameas, "other"},
             {"escaped", test_escaped, NULL},
             {"in", test_in, "seq"},
             {"filter", test_filter, NULL},
             {"test", test_test, NULL},
             {"eq", test_eq, ""},
             {"==", test_eq, ""},
             {"equalto", test_eq, ""},
             {"ne", test_ne, ""},
             {"!=", test_ne, ""},
             {"lt", test_lt, ""},
             {"<", test_lt, ""},
             {"lessthan", test_lt, ""},
             {"le", test_le, ""},
             {"<=", test_le, ""},
             {"gt", test_gt, ""},
             {">", test_gt, ""},
             {"greaterthan", test_gt, ""},
             {"ge", test_ge, ""},
             {">=", test_ge, ""}};

int j_find_test(const JStr *name) {
    for (int i = 0; i < COUNT_OF(tests); i++)
        if (strlen(tests[i].name) == name->n && memcmp(tests[i].name, name->s, name->n) == 0) return i;
    return -1;
}

bool jx_test(Jx *x, int row, JVal v, const JArgs *a) {
    JVal arg[MAX_BOUND];
    const char *spec = tests[row].arg;
    bool operator= spec && !* spec;
    if (!jx_bind(x, tests[row].name,
                 !spec   ? "" :
                 operator? "other"
                         : spec,
                 operator? BIND_POSITIONAL : BIND_ANY, a, arg))
        return false;
    return tests[row].fn(x, v, arg[0]) && !x->failed;
}

bool jx_test_named(Jx *x, JVal name, JVal v, const JArgs *a) {
    int row = name.kind == J_STR ? j_find_test(name.u.str) : -1;
    if (row >= 0) return jx_test(x, row, v, a);
    JVal text = jx_text(x, name);
    jx_fail(x, "No test named '%.60s'.", text.u.str->s);
    return false;
}
