#include "app/plan_conf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/conf.h"
#include "cai/dryrun.h"
#include "cai/pipeline.h"

#define GIB 1073741824.0

static void bytes_cell(char out[24], double bytes, bool at_most) {
    const char *sign = at_most ? "<" : "";
    if (bytes <= 0)
        snprintf(out, 24, "–");
    else if (bytes < 0.095 * GIB)
        snprintf(out, 24, "%s%.1f MiB", sign, bytes / 1048576);
    else
        snprintf(out, 24, "%s%.2f GiB", sign, bytes / GIB);
}

static void disk_cell(char out[24], double bytes) {
    if (bytes <= 0)
        snprintf(out, 24, "–");
    else if (bytes < 1e8)
        snprintf(out, 24, "%.1f MB", bytes / 1e6);
    else
        snprintf(out, 24, "%.2f GB", bytes / 1e9);
}

/* Columns are counted in characters; "–" has three bytes. */
static void cell(const char *text, int width) {
    int n = 0;
    for (const char *p = text; *p; p++) n += (*p & 0xC0) != 0x80;
    printf(" %*s%s", width - n > 1 ? width - n - 1 : 0, "", text);
}

static void text_row(const StageNeed *n) {
    char steps[24] = "–", tokens[24] = "–", device[24], host[24], disk[24], took[32] = "–";
    if (n->steps > 0) snprintf(steps, sizeof steps, "%lld", (long long)n->steps);
    if (n->tokens > 0) format_count(tokens, n->tokens);
    if (n->seconds > 0) format_time(took, n->seconds);
    bytes_cell(device, (double)n->device, n->at_most);
    bytes_cell(host, (double)n->host, false);
    disk_cell(disk, n->disk);
    printf("%-11s %-6s", n->stage, n->done ? "DONE" : "to do");
    cell(steps, 8);
    cell(tokens, 9);
    cell(device, 12);
    cell(host, 12);
    cell(disk, 11);
    cell(took, 14);
    if (n->done)
        printf("   %s", n->dir);
    else if (n->unknown)
        printf("   memory not planned: %s", n->unknown);
    printf("\n");
}

static const StageNeed *largest(const DryRun *d) {
    const StageNeed *most = NULL;
    for (int i = 0; i < d->n; i++)
        if (!most || d->item[i].device > most->device) most = &d->item[i];
    return most;
}

static void text_end(const DryRun *d) {
    const StageNeed *n = largest(d);
    char at_most[] = " at most";
    if (!n || n->device == 0) {
        printf("nothing is left to train, or nothing that can be planned\n");
        return;
    }
    if (!n->at_most) at_most[0] = 0;
    printf("fits: %.2f GiB%s", (double)(n->device + n->host) * d->ranks_here / GIB, at_most);
    if (d->room >= 0) printf(" of %.2f GiB", d->room / GIB);
    printf(" (%s, backend %s, %d rank%s). Of a rank: weights %.2f, gradients %.2f, optimizer %.2f, activations %.2f, "
           "sums of "
           "gradients %.2f, other %.2f GiB\n",
           n->stage, d->backend, d->ranks, d->ranks > 1 ? "s" : "", (double)n->weights / GIB,
           (double)n->gradients / GIB, (double)n->optimizer / GIB, (double)n->activations / GIB, (double)n->sums / GIB,
           (double)n->other / GIB);
    if (d->vocab_at_most) printf("a vocabulary of %d is assumed: the tokenizer is not trained yet\n", d->vocab);
    printf("times: products alone, at the %.1f GFLOP/s that this machine just made of them\n", d->flops_s / 1e9);
}

static void json_stage(JsonOut *j, const StageNeed *n) {
    json_out_obj(j, NULL);
    json_out_str(j, "stage", n->stage);
    json_out_str(j, "state", n->done ? "done" : "to do");
    json_out_str(j, "dir", n->dir);
    json_out_bool(j, "trains", n->trains);
    if (n->unknown) json_out_str(j, "not_planned", n->unknown);
    if (n->device > 0) {
        json_out_bool(j, "at_most", n->at_most);
        json_out_int(j, "parameters", n->parameters);
        json_out_int(j, "steps", n->steps);
        json_out_num(j, "tokens", n->tokens);
        json_out_int(j, "weight_bytes", (int64_t)n->weights);
        json_out_int(j, "gradient_bytes", (int64_t)n->gradients);
        json_out_int(j, "optimizer_bytes", (int64_t)n->optimizer);
        json_out_int(j, "activation_bytes", (int64_t)n->activations);
        json_out_int(j, "sum_bytes", (int64_t)n->sums);
        json_out_int(j, "other_bytes", (int64_t)n->other);
        json_out_int(j, "device_bytes", (int64_t)n->device);
        json_out_int(j, "host_bytes", (int64_t)n->host);
        json_out_num(j, "disk_bytes", n->disk);
        json_out_num(j, "flops", n->flops);
        json_out_num(j, "seconds", n->seconds);
    }
    json_out_obj_end(j);
}

static void print_json(const DryRun *d) {
    Str text = {0};
    JsonOut j;
    json_out_init(&j, &text, 0);
    json_out_obj(&j, NULL);
    json_out_str(&j, "schema", "dikast-plan-run/1");
    json_out_str(&j, "backend", d->backend);
    json_out_int(&j, "ranks", d->ranks);
    json_out_int(&j, "vocab", d->vocab);
    json_out_bool(&j, "vocab_at_most", d->vocab_at_most);
    json_out_num(&j, "memory_left", d->room);
    json_out_num(&j, "disk_left", d->disk_room);
    json_out_num(&j, "flops_s", d->flops_s);
    json_out_arr(&j, "stages");
    for (int i = 0; i < d->n; i++) json_stage(&j, &d->item[i]);
    json_out_arr_end(&j);
    json_out_obj_end(&j);
    print_text(&text);
}

static void print_table(const DryRun *d) {
    static const struct {
        const char *name;
        int width;
    } head[] = {{"steps", 8}, {"tokens", 9}, {"device", 12}, {"host", 12}, {"disk", 11}, {"time", 14}};
    printf("%-11s %-6s", "stage", "state");
    for (int i = 0; i < COUNT_OF(head); i++) printf("%*s", head[i].width, head[i].name);
    printf("\n");
    for (int i = 0; i < d->n; i++) text_row(&d->item[i]);
}

bool plan_conf(const Args *a, Error *err) {
    RunConfig cfg;
    if (!conf_load(&cfg, a->arg[0], a->set, a->n_set, err)) return false;
    DryRun *d = mem_alloc(sizeof *d);
    bool ok = dry_run(d, &cfg, a->arg[0], err);
    if (ok && !a->json) print_table(d);
    ok = ok && dry_run_fits(d, &cfg, err);
    Error held = {0};
    if (ok && !pipeline_claim(&cfg, a->arg[0], &held)) log_info(a->log, "the run would be refused: %s", held.msg);
    if (ok && a->json)
        print_json(d);
    else if (ok)
        text_end(d);
    free(d);
    run_config_release(&cfg);
    return ok;
}
