/* dikast doctor: what this machine offers, and whether our own arithmetic is right on it. One line per check: ok, warn
 * or fail, a value, and what mends it. The machine is looked at here, the self-test is in doctor_self.c, GPUs in
 * doctor_gpu.c. */
#include <errno.h>
#include <langinfo.h>
#include <link.h>
#include <locale.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "app/doctor.h"
#include "base/io.h"
#include "base/load.h"
#include "cai/manifest.h"

static const Flag flags[] = {{"--out", "DIR", "where runs will be written (default out)"}, MACHINE_FLAGS, {0}};

void doctor_say(Doctor *d, CheckState state, const char *name, const char *fix, const char *fmt, ...) {
    static const char *const word[] = {"ok", "warn", "fail"};
    char value[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(value, sizeof value, fmt, ap);
    va_end(ap);
    d->n[state]++;
    if (!d->json) {
        printf("%-5s %-10s %s\n", word[state], name, value);
        if (fix && state != CHECK_OK) printf("%-16s fix: %s\n", "", fix);
        fflush(stdout);
        return;
    }
    json_out_obj(&d->j, NULL);
    json_out_str(&d->j, "check", name);
    json_out_str(&d->j, "state", word[state]);
    json_out_str(&d->j, "value", value);
    if (fix && state != CHECK_OK) json_out_str(&d->j, "fix", fix);
    json_out_obj_end(&d->j);
}

/* First line of a small file, without its newline; false when it cannot be read. */
static bool first_line(char *out, size_t n, const char *path) {
    FILE *f = fopen(path, "re");
    bool ok = f && fgets(out, (int)n, f);
    if (f) fclose(f);
    if (ok) out[strcspn(out, "\n")] = 0;
    return ok;
}

/* -- processor and memory ---------------------------------------------------------------------------------------- */

static void check_cpu(Doctor *d) {
    char name[256], quota[64];
    cpu_set_t set;
    machine_cpu(name, sizeof name);
    int allowed = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 0;
    const char *limit =
        first_line(quota, sizeof quota, "/sys/fs/cgroup/cpu.max") && strncmp(quota, "max", 3) ? quota : "none";
    const char *isa = backend_isa(d->machine.be);
    CheckState state = !strcmp(isa, "scalar") ? CHECK_WARN : CHECK_OK;
    doctor_say(d, state, "cpu", "a processor with AVX2 and FMA is some ten times faster",
               "%s, %s kernels, %d threads on %d usable of %ld CPUs (affinity %d, cgroup limit %s)", name, isa,
               pool_threads(d->machine.pool), pool_cpus(), sysconf(_SC_NPROCESSORS_ONLN), allowed, limit);
}

static void check_memory(Doctor *d) {
    char limit[64], pages[128];
    double gib = 1 << 30, total = load_memory("MemTotal") / gib, left = load_memory("MemAvailable") / gib;
    bool limited = first_line(limit, sizeof limit, "/sys/fs/cgroup/memory.max") && strncmp(limit, "max", 3);
    if (limited && strtod(limit, NULL) / (1 << 30) < left) left = strtod(limit, NULL) / (1 << 30);
    bool known = first_line(pages, sizeof pages, "/sys/kernel/mm/transparent_hugepage/enabled");
    const char *huge = !known                      ? "unknown"
                       : strstr(pages, "[never]")  ? "never"
                       : strstr(pages, "[always]") ? "always"
                                                   : "on request";
    doctor_say(d,
               left < 1   ? CHECK_FAIL
               : left < 4 ? CHECK_WARN
                          : CHECK_OK,
               "memory", "close other programs or raise the limit; conf/quickstart.yaml needs about 1 GiB",
               "%.1f GiB available of %.1f, cgroup limit %s, huge pages %s", left, total, limited ? limit : "none",
               huge);
}

/* -- disk -------------------------------------------------------------------------------------------------------- */

static const char *filesystem(const char *path) {
    static const struct {
        long magic;
        const char *name;
    } known[] = {
        {0xEF53, "ext4"},        {0x58465342, "xfs"}, {0x9123683E, "btrfs"}, {0x01021994, "tmpfs"},
        {0x794c7630, "overlay"}, {0x6969, "nfs"},     {0x2FC12FC1, "zfs"},   {0x65735546, "fuse"},
        {0xFF534D42, "cifs"},    {0x01021997, "9p"},  {0xF2F52010, "f2fs"},  {0x4d44, "vfat"},
    };
    struct statfs s;
    if (statfs(path, &s) != 0) return "unknown";
    for (int i = 0; i < COUNT_OF(known); i++)
        if ((long)s.f_type == known[i].magic) return known[i].name;
    return "other";
}

/* Durable means: temporary file, fsync, rename, fsync of the folder: what every saved state costs at least. */
static bool durable_write(const char *dir, double *ms, Error *err) {
    Str path = {0};
    double v[5];
    bool ok = true;
    str_printf(&path, "%s/.doctor-%ld", dir, (long)getpid());
    for (int i = 0; ok && i < COUNT_OF(v); i++) {
        double start = now_s();
        ok = io_write_file(str_get(&path), "dikast", 6, err);
        v[i] = 1e3 * (now_s() - start);
    }
    unlink(str_get(&path));
    str_release(&path);
    *ms = v[0];
    for (int i = 1; ok && i < COUNT_OF(v); i++) *ms = v[i] < *ms ? v[i] : *ms;
    return ok;
}

static void check_disk(Doctor *d, const char *out) {
    Error err = {0};
    double ms = 0;
    bool made = !io_exists(out);
    if (!io_make_dirs(out, &err) || !durable_write(out, &ms, &err)) {
        doctor_say(d, CHECK_FAIL, "disk", "choose another folder with run.out=DIR", "%s", err.msg);
        return;
    }
    double gb = io_free_bytes(out) / 1e9;
    const char *fs = filesystem(out);
    bool volatile_fs = !strcmp(fs, "tmpfs"), far = !strcmp(fs, "nfs") || !strcmp(fs, "cifs");
    CheckState state = gb < 0.5 ? CHECK_FAIL : gb < 5 || ms > 200 || volatile_fs || far ? CHECK_WARN : CHECK_OK;
    const char *fix = gb < 5 ? "free space, or choose another disk with run.out=DIR"
                             : "a local disk keeps runs safer and states faster: run.out=DIR";
    doctor_say(d, state, "disk", fix, "%s on %s, %.1f GB free, durable rename %.1f ms", out, fs, gb, ms);
    if (made) rmdir(out);
}

/* -- process ----------------------------------------------------------------------------------------------------- */

static void check_limits(Doctor *d) {
    struct rlimit files, memory;
    getrlimit(RLIMIT_NOFILE, &files);
    getrlimit(RLIMIT_AS, &memory);
    bool few = files.rlim_cur < 256, small = memory.rlim_cur != RLIM_INFINITY && memory.rlim_cur < (rlim_t)4 << 30;
    char size[32] = "unlimited";
    if (memory.rlim_cur != RLIM_INFINITY) snprintf(size, sizeof size, "%.1f GiB", (double)memory.rlim_cur / (1 << 30));
    doctor_say(d, few || small ? CHECK_WARN : CHECK_OK, "limits", few ? "ulimit -n 1024" : "ulimit -v unlimited",
               "%llu open files, address space %s", (unsigned long long)files.rlim_cur, size);
}

static void check_locale(Doctor *d) {
    locale_t l = newlocale(LC_CTYPE_MASK, "", (locale_t)0);
    const char *charset = l ? nl_langinfo_l(CODESET, l) : "unknown";
    bool utf8 = !strcmp(charset, "UTF-8");
    doctor_say(d, utf8 ? CHECK_OK : CHECK_WARN, "locale",
               "export LC_ALL=C.UTF-8 (only what a terminal shows depends on it)", "character set %s", charset);
    if (l) freelocale(l);
}

typedef struct {
    Str text;
    int n_omp;
} Libs;

/* "/usr/lib/libz.so.1" is a link to libz.so.1.2.13: the file's own name tells the version. */
static int one_library(struct dl_phdr_info *info, size_t size, void *ud) {
    Libs *libs = ud;
    (void)size;
    char *real = info->dlpi_name && info->dlpi_name[0] == '/' ? realpath(info->dlpi_name, NULL) : NULL;
    const char *name = real ? strrchr(real, '/') + 1 : NULL, *so = name ? strstr(name, ".so") : NULL;
    if (so && strncmp(name, "ld-", 3) && strncmp(name, "libm.", 5)) {
        const char *version = so[3] == '.' ? so + 4 : "";
        str_printf(&libs->text, "%s%.*s %s", libs->text.n ? ", " : "",
                   (int)(so - name) - (strncmp(name, "lib", 3) ? 0 : 3), name + (strncmp(name, "lib", 3) ? 0 : 3),
                   version);
        if (strstr(name, "gomp") || strstr(name, "iomp") || strstr(name, "libomp")) libs->n_omp++;
    }
    free(real);
    return 0;
}

static void check_libraries(Doctor *d) {
    Libs libs = {0};
    dl_iterate_phdr(one_library, &libs);
    doctor_say(d, libs.n_omp > 1 ? CHECK_WARN : CHECK_OK, "libraries",
               "more than one OpenMP runtime is loaded: check LD_PRELOAD", "%s",
               libs.text.n ? libs.text.s : "linked statically");
    str_release(&libs.text);
}

/* The tiny world's rule is a program of its own; without it conf/quickstart.yaml cannot be evaluated. */
static void check_gold(Doctor *d) {
    Str path = {0};
    Error ignore = {0};
    if (io_beside_program(&path, "dikast-gold", &ignore)) {
        bool there = access(path.s, X_OK) == 0;
        doctor_say(d, there ? CHECK_OK : CHECK_WARN, "gold",
                   "build the target dikast-gold, or name it with eval.gold=PROGRAM", "%s %s", path.s,
                   there ? "is there" : "is missing: the tiny world cannot be evaluated");
    }
    str_release(&path);
}

static bool run(const Args *a, Error *err) {
    const char *out = args_flag(a, &command_doctor, "--out");
    Doctor d = {.json = a->json};
    if (!machine_open_on(&d.machine, "cpu", a, &command_doctor, err)) return false;
    if (a->json) {
        json_out_init(&d.j, &d.text, 0);
        json_out_obj(&d.j, NULL);
        json_out_str(&d.j, "schema", "dikast-doctor/1");
        json_out_str(&d.j, "version", DIKAST_VERSION);
        json_out_arr(&d.j, "checks");
    }
    check_cpu(&d);
    check_memory(&d);
    check_disk(&d, out ? out : "out");
    check_limits(&d);
    check_locale(&d);
    check_libraries(&d);
    check_gold(&d);
    doctor_self(&d);
    doctor_gpu(&d, args_flag(a, &command_doctor, "--device"));
    if (a->json) {
        json_out_arr_end(&d.j);
        json_out_int(&d.j, "ok", d.n[CHECK_OK]);
        json_out_int(&d.j, "warn", d.n[CHECK_WARN]);
        json_out_int(&d.j, "fail", d.n[CHECK_FAIL]);
        json_out_obj_end(&d.j);
        print_text(&d.text);
    } else {
        printf("%d ok, %d warning%s, %d failure%s\n", d.n[CHECK_OK], d.n[CHECK_WARN], d.n[CHECK_WARN] == 1 ? "" : "s",
               d.n[CHECK_FAIL], d.n[CHECK_FAIL] == 1 ? "" : "s");
    }
    machine_close(&d.machine);
    return d.n[CHECK_FAIL] == 0 ||
           error_set(err, ERR_IO, "%d check%s failed", d.n[CHECK_FAIL], d.n[CHECK_FAIL] == 1 ? "" : "s");
}

const Command command_doctor = {
    .name = "doctor",
    .usage = "doctor [--out DIR] [--json]",
    .help =
        "check this machine, and our arithmetic on it\n\n"
        "Processor, memory, disk, limits, locale, libraries; then a self-test: products, attention and norms of every\n"
        "instruction set against the F64 reference, two steps of training against known losses, a tokenizer vector; "
        "then\n"
        "the same on a GPU: the one --device names, else the first one there is.\n"
        "Exit code 4 when something fails.",
    .flag = flags,
    .says_error = true,
    .run = run};
