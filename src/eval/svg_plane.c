#include "eval/svg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "eval/html.h"

enum { WIDTH = 340, LEFT = 44, RIGHT = 330, TOP = 26, BOTTOM = 240, HEIGHT = 280 };
enum { NAME_UP = 7, NAME_DOWN = 16, NAME_HIGH = 14, NAME_WIDE = 60 }; /* where a point's name stands, and its size */

typedef struct {
    double lo, hi, from, to;
    SvgUnit unit;
} Axis;

static double place(const Axis *a, double v) { return a->from + (v - a->lo) / (a->hi - a->lo) * (a->to - a->from); }

static void widen(Axis *a, double v) {
    if (!isfinite(v)) return;
    a->lo = fmin(a->lo, v);
    a->hi = fmax(a->hi, v);
}

/* A little room at both ends; shares stay within 0..1. */
static void settle(Axis *a) {
    double room = (a->hi - a->lo) * 0.06;
    if (!(a->hi > a->lo)) room = a->unit == SVG_PERCENT ? 0.05 : fmax(1, fabs(a->hi) * 0.1);
    if (!isfinite(a->lo)) a->lo = 0, a->hi = 1, room = 0;
    a->lo -= room;
    a->hi += room;
    if (a->unit == SVG_PERCENT) {
        a->lo = fmax(a->lo, 0);
        a->hi = fmin(a->hi, 1);
    }
}

static void tick_label(Str *out, double v, SvgUnit unit) {
    if (unit == SVG_PERCENT)
        str_printf(out, "%.0f%%", 100 * v + 0.0);
    else
        html_number(out, v);
    str_put(out, "</text>");
}

static void axes(Str *out, const Axis *x, const Axis *y, const char *x_name, const char *y_name) {
    double tick[11];
    int n = svg_ticks(tick, x->lo, x->hi, 6);
    for (int i = 0; i < n; i++) {
        double at = place(x, tick[i]);
        str_printf(out, "<line x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\" class=\"grid\"/>", at, TOP, at, BOTTOM);
        str_printf(out, "<text x=\"%.1f\" y=\"%d\" class=\"dim\" text-anchor=\"%s\">", at, BOTTOM + 15,
                   at > RIGHT - 14 ? "end" : "middle");
        tick_label(out, tick[i], x->unit);
    }
    n = svg_ticks(tick, y->lo, y->hi, 6);
    for (int i = 0; i < n; i++) {
        double at = place(y, tick[i]);
        str_printf(out, "<line x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" class=\"grid\"/>", LEFT, at, RIGHT, at);
        str_printf(out, "<text x=\"%d\" y=\"%.1f\" class=\"dim\" text-anchor=\"end\">", LEFT - 5, at + 4);
        tick_label(out, tick[i], y->unit);
    }
    str_printf(out, "<text x=\"%d\" y=\"%d\" class=\"dim\" text-anchor=\"end\">", RIGHT, HEIGHT - 8);
    html_text(out, x_name);
    str_printf(out, " →</text><text x=\"%d\" y=\"%d\" class=\"dim\" text-anchor=\"start\">↑ ", 4, 12);
    html_text(out, y_name);
    str_put(out, "</text>\n");
}

static void bar(Str *out, double x1, double y1, double x2, double y2) {
    if (isfinite(x1) && isfinite(x2) && isfinite(y1) && isfinite(y2))
        str_printf(out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" class=\"bar\"/>", x1, y1, x2, y2);
}

static bool shown(const SvgPoint *p) { return isfinite(p->x) && isfinite(p->y); }

static int by_x(const void *a, const void *b) {
    const SvgPoint *p = *(const SvgPoint *const *)a, *q = *(const SvgPoint *const *)b;
    return p->x != q->x ? (p->x > q->x) - (p->x < q->x) : (p->y > q->y) - (p->y < q->y);
}

static void front(Str *out, const Axis *x, const Axis *y, const SvgPoint *point, int n) {
    const SvgPoint **on = mem_alloc((size_t)(n + 1) * sizeof *on);
    int m = 0;
    for (int i = 0; i < n; i++)
        if (point[i].front && shown(&point[i])) on[m++] = &point[i];
    qsort(on, (size_t)m, sizeof *on, by_x);
    if (m > 1) {
        str_put(out, "<polyline class=\"front\" points=\"");
        for (int i = 0; i < m; i++)
            str_printf(out, "%s%.1f,%.1f", i ? " " : "", place(x, on[i]->x), place(y, on[i]->y));
        str_put(out, "\"/>\n");
    }
    free(on);
}

static void describe(Str *out, const SvgPoint *point, int n, const char *x_name, SvgUnit x_unit, const char *y_name,
                     SvgUnit y_unit) {
    int missing = 0;
    for (int i = 0; i < n; i++) {
        missing += !shown(&point[i]);
        if (!shown(&point[i])) continue;
        html_text(out, point[i].label);
        str_put(out, ": ");
        html_text(out, x_name);
        str_put(out, " ");
        svg_value(out, point[i].x, x_unit);
        str_put(out, ", ");
        html_text(out, y_name);
        str_put(out, " ");
        svg_value(out, point[i].y, y_unit);
        str_put(out, point[i].front ? ", on the front. " : ". ");
    }
    if (missing) str_printf(out, "%d not measured.", missing);
    str_put(out, "</desc>\n");
}

/* Is a name above point i in the way: of the axis' own name, or of the name of an earlier point? */
static bool crowded(const Axis *x, const Axis *y, const SvgPoint *point, int i) {
    double px = place(x, point[i].x), py = place(y, point[i].y);
    if (py - NAME_UP < TOP + NAME_HIGH / 2) return true;
    for (int k = 0; k < i; k++)
        if (shown(&point[k]) && fabs(place(y, point[k].y) - py) < NAME_HIGH &&
            fabs(place(x, point[k].x) - px) < NAME_WIDE)
            return true;
    return false;
}

void svg_plane(Str *out, const char *title, const char *x_name, SvgUnit x_unit, const char *y_name, SvgUnit y_unit,
               const SvgPoint *point, int n) {
    Axis x = {INFINITY, -INFINITY, LEFT, RIGHT, x_unit}, y = {INFINITY, -INFINITY, BOTTOM, TOP, y_unit};
    for (int i = 0; i < n; i++) {
        if (!shown(&point[i])) continue;
        widen(&x, point[i].x), widen(&x, point[i].x_lo), widen(&x, point[i].x_hi);
        widen(&y, point[i].y), widen(&y, point[i].y_lo), widen(&y, point[i].y_hi);
    }
    settle(&x);
    settle(&y);
    str_printf(out, "<svg role=\"img\" viewBox=\"0 0 %d %d\"><title>", WIDTH, HEIGHT);
    html_text(out, title);
    str_put(out, "</title><desc>");
    describe(out, point, n, x_name, x_unit, y_name, y_unit);
    axes(out, &x, &y, x_name, y_name);
    front(out, &x, &y, point, n);
    for (int i = 0; i < n; i++) {
        const SvgPoint *p = &point[i];
        if (!shown(p)) continue;
        double px = place(&x, p->x), py = place(&y, p->y);
        bool left = px > WIDTH - 120;
        str_printf(out, "<g class=\"s%d\">", p->colour % 5);
        bar(out, place(&x, p->x_lo), py, place(&x, p->x_hi), py);
        bar(out, px, place(&y, p->y_lo), px, place(&y, p->y_hi));
        str_printf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"5\" class=\"dot\"/></g>", px, py);
        str_printf(out, "<text x=\"%.1f\" y=\"%.1f\" class=\"strong\" text-anchor=\"%s\">", left ? px - 9 : px + 9,
                   crowded(&x, &y, point, i) ? py + NAME_DOWN : py - NAME_UP, left ? "end" : "start");
        html_text(out, p->label);
        str_put(out, "</text>\n");
    }
    str_put(out, "</svg>\n");
}
