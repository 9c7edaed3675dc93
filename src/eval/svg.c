#include "eval/svg.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "eval/html.h"

enum { WIDTH = 340, LEFT = 10, RIGHT = 330 };

static double clamp(double v, double lo, double hi) { return v < lo ? lo : v > hi ? hi : v; }

/* Everything drawn passes here: finite, inside the picture, no "-0.0". */
static double at(double v) { return isfinite(v) ? clamp(v, 0, 2000) + 0.0 : 0; }

static void open_svg(Str *out, int height, const char *title) {
    str_printf(out, "<svg role=\"img\" viewBox=\"0 0 %d %d\"><title>", WIDTH, height);
    html_text(out, title);
    str_put(out, "</title><desc>");
}

void svg_value(Str *out, double v, SvgUnit unit) {
    if (unit == SVG_PERCENT)
        html_percent(out, v);
    else if (unit == SVG_POINTS)
        html_signed(out, 100 * v, 1);
    else
        html_number(out, v);
}

static void text(Str *out, double x, double y, const char *class, const char *anchor) {
    str_printf(out, "<text x=\"%.1f\" y=\"%.1f\"%s%s%s text-anchor=\"%s\">", at(x), at(y), class ? " class=\"" : "",
               class ? class : "", class ? "\"" : "", anchor);
}

static void line(Str *out, double x1, double y1, double x2, double y2, const char *class) {
    str_printf(out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" class=\"%s\"/>", at(x1), at(y1), at(x2),
               at(y2), class);
}

int svg_ticks(double tick[11], double lo, double hi, int most) {
    if (!isfinite(lo) || !isfinite(hi) || hi <= lo) return 0;
    most = most < 2 ? 2 : most > 11 ? 11 : most;
    double power = pow(10, floor(log10((hi - lo) / most))), step = power;
    if (!isfinite(power) || power <= 0) return 0;
    static const double factor[] = {1, 2, 5, 10, 20};
    int n = 0;
    for (int f = 0; f < COUNT_OF(factor); f++) {
        step = power * factor[f];
        double first = ceil(lo / step - 1e-9);
        n = (int)(floor(hi / step + 1e-9) - first) + 1;
        if (n > most) continue;
        for (int i = 0; i < n; i++) tick[i] = (first + i) * step + 0.0;
        return n;
    }
    return 0;
}

/* -- intervals ----------------------------------------------------------------------------------------------------- */
static void describe_dots(Str *out, const SvgDot *dot, int n, SvgUnit unit) {
    if (n == 0) str_put(out, "No data.");
    for (int i = 0; i < n; i++) {
        html_text(out, dot[i].label);
        str_put(out, ": ");
        svg_value(out, dot[i].value, unit);
        if (isfinite(dot[i].lo) && isfinite(dot[i].hi)) {
            str_put(out, " (");
            svg_value(out, dot[i].lo, unit);
            str_put(out, " to ");
            svg_value(out, dot[i].hi, unit);
            str_put(out, ")");
        }
        str_put(out, i + 1 < n ? "; " : ".");
    }
    str_put(out, "</desc>\n");
}

typedef struct {
    double lo, hi, from, to;
} Axis;

static double place(const Axis *a, double v) {
    return a->from + (clamp(v, a->lo, a->hi) - a->lo) / (a->hi - a->lo) * (a->to - a->from);
}

static void draw_axis(Str *out, const Axis *a, double top, double bottom, SvgUnit unit) {
    double tick[11];
    int n = svg_ticks(tick, a->lo, a->hi, 6);
    for (int i = 0; i < n; i++) {
        double x = place(a, tick[i]);
        line(out, x, top, x, bottom, a->lo < 0 && tick[i] == 0 ? "axis" : "grid");
        text(out, x, bottom + 13, "dim", i == 0 && x < 20 ? "start" : x > RIGHT - 14 ? "end" : "middle");
        if (unit == SVG_PERCENT)
            str_printf(out, "%.0f%%", 100 * tick[i] + 0.0);
        else if (unit == SVG_POINTS)
            html_signed(out, 100 * tick[i], 0);
        else
            html_number(out, tick[i]);
        str_put(out, "</text>");
    }
}

void svg_dots(Str *out, const char *title, const SvgDot *dot, int n, double lo, double hi, SvgUnit unit) {
    enum { ROW = 34 };
    if (!isfinite(lo) || !isfinite(hi) || hi <= lo) lo = 0, hi = 1;
    Axis a = {lo, hi, LEFT, RIGHT};
    int bottom = 4 + n * ROW;
    open_svg(out, bottom + 20, title);
    describe_dots(out, dot, n, unit);
    draw_axis(out, &a, 4, bottom, unit);
    for (int i = 0; i < n; i++) {
        const SvgDot *d = &dot[i];
        double y = 4 + i * ROW;
        text(out, LEFT, y + 13, NULL, "start");
        html_text(out, d->label);
        str_put(out, "</text>");
        text(out, RIGHT, y + 13, "strong", "end");
        svg_value(out, d->value, unit);
        str_put(out, "</text>");
        if (!isfinite(d->value)) continue;
        char class[16];
        snprintf(class, sizeof class, "bar s%d", (int)clamp(d->colour, 0, 4));
        y += 23;
        if (isfinite(d->lo) && isfinite(d->hi)) line(out, place(&a, d->lo), y, place(&a, d->hi), y, class);
        str_printf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\" class=\"dot s%d\"/>\n", at(place(&a, d->value)),
                   at(y), (int)clamp(d->colour, 0, 4));
    }
    str_put(out, "</svg>\n");
}

/* -- bars ---------------------------------------------------------------------------------------------------------- */
void svg_bars(Str *out, const char *title, const SvgBar *bar, int n) {
    enum { ROW = 32 };
    double most = 0;
    for (int i = 0; i < n; i++)
        if (isfinite(bar[i].value) && bar[i].value > most) most = bar[i].value;
    open_svg(out, n > 0 ? n * ROW + 2 : 20, title);
    if (n == 0) str_put(out, "No data.");
    for (int i = 0; i < n; i++) {
        html_text(out, bar[i].label);
        str_put(out, ": ");
        html_number(out, bar[i].value);
        str_put(out, i + 1 < n ? "; " : ".");
    }
    str_put(out, "</desc>\n");
    for (int i = 0; i < n; i++) {
        double y = i * ROW, share = isfinite(bar[i].value) && most > 0 ? clamp(bar[i].value / most, 0, 1) : 0;
        text(out, LEFT, y + 14, NULL, "start");
        html_text(out, bar[i].label);
        str_put(out, "</text>");
        text(out, RIGHT, y + 14, "strong", "end");
        html_number(out, bar[i].value);
        str_put(out, "</text>");
        str_printf(out, "<rect x=\"%d\" y=\"%.1f\" width=\"%d\" height=\"8\" class=\"track\"/>", LEFT, y + 19,
                   RIGHT - LEFT);
        str_printf(out, "<rect x=\"%d\" y=\"%.1f\" width=\"%.1f\" height=\"8\" class=\"fill s%d\"/>\n", LEFT, y + 19,
                   at(share * (RIGHT - LEFT)), (int)clamp(bar[i].colour, 0, 4));
    }
    str_put(out, "</svg>\n");
}

/* -- curves -------------------------------------------------------------------------------------------------------- */
int svg_buckets(SvgBucket *out, int most, const double *x, const double *y, int n) {
    int finite = 0, used = 0;
    for (int i = 0; i < n; i++) finite += isfinite(x[i]) && isfinite(y[i]);
    int buckets = finite < most ? finite : most, bucket = -1;
    int64_t seen = 0, count = 0;
    for (int i = 0; i < n; i++) {
        if (!isfinite(x[i]) || !isfinite(y[i])) continue;
        int b = (int)(seen++ * buckets / finite);
        if (b != bucket) {
            bucket = b;
            out[used++] = (SvgBucket){0, 0, y[i], y[i]};
            count = 0;
        }
        SvgBucket *k = &out[used - 1];
        count++;
        k->x += (x[i] - k->x) / (double)count;
        k->mean += (y[i] - k->mean) / (double)count;
        k->min = fmin(k->min, y[i]);
        k->max = fmax(k->max, y[i]);
    }
    return used;
}

typedef struct {
    Axis x, y;
    bool log;
} Plot;

static double place_y(const Plot *p, double v) { return place(&p->y, p->log ? log10(fmax(v, 1e-300)) : v); }

/* The scale follows the means: one wild step must not flatten the curve. The band is cut at the frame. */
static void scale(Plot *p, const SvgBucket *b, int n) {
    double lo = b[0].mean, hi = lo;
    for (int i = 1; i < n; i++) lo = fmin(lo, b[i].mean), hi = fmax(hi, b[i].mean);
    /* A series that came down by orders of magnitude; noise alone does not count. */
    int part = n / 20 > 1 ? n / 20 : 1;
    double first = 0, last = 0;
    for (int i = 0; i < part; i++) first += b[i].mean, last += b[n - 1 - i].mean;
    p->log = lo > 0 && fmax(first, last) > 10 * fmin(first, last);
    if (p->log) lo = log10(lo), hi = log10(hi);
    double room = hi > lo ? 0.06 * (hi - lo) : fabs(lo) > 0 ? 0.1 * fabs(lo) : 1;
    p->y = (Axis){lo - room, hi + room, 134, 8};
    /* A scale that starts near zero starts at zero: a line that seems to fall to nothing should do so. */
    if (!p->log && lo >= 0 && p->y.lo < 0.25 * hi) p->y.lo = 0;
    p->x = (Axis){b[0].x, n > 1 && b[n - 1].x > b[0].x ? b[n - 1].x : b[0].x + 1, 46, 332};
}

static void draw_frame(Str *out, const Plot *p, const char *x_name) {
    double tick[11];
    int n = svg_ticks(tick, p->y.lo, p->y.hi, 5), whole = 0;
    for (int i = 0; i < n; i++) whole += tick[i] == floor(tick[i]);
    for (int i = 0; i < n; i++) {
        /* Powers of ten alone, unless the range holds fewer than two of them. */
        if (p->log && whole >= 2 && tick[i] != floor(tick[i])) continue;
        double y = place(&p->y, tick[i]), v = p->log ? pow(10, tick[i]) : tick[i];
        char s[40];
        line(out, 46, y, 332, y, tick[i] == 0 && !p->log ? "axis" : "grid");
        text(out, 41, y + 4, "dim", "end");
        snprintf(s, sizeof s, p->log && whole < 2 ? "%.2g" : "%.4g", v + 0.0);
        html_text(out, s);
        str_put(out, "</text>");
    }
    n = svg_ticks(tick, p->x.lo, p->x.hi, 5);
    for (int i = 0; i < n; i++) {
        double x = place(&p->x, tick[i]);
        text(out, x, 148, "dim", x > 322 ? "end" : "middle");
        html_number(out, tick[i]);
        str_put(out, "</text>");
    }
    text(out, 189, 163, "dim", "middle");
    html_text(out, x_name);
    str_put(out, p->log ? " (values on a logarithmic scale)</text>\n" : "</text>\n");
}

static void draw_curve(Str *out, const Plot *p, const SvgBucket *b, int n, bool band, int colour) {
    if (n == 1) {
        str_printf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" class=\"dot s%d\"/>\n", at(place(&p->x, b[0].x)),
                   at(place_y(p, b[0].mean)), colour);
        return;
    }
    if (band) {
        str_put(out, "<path d=\"");
        for (int i = 0; i < n; i++)
            str_printf(out, "%c%.1f %.1f", i ? 'L' : 'M', at(place(&p->x, b[i].x)), at(place_y(p, b[i].max)));
        for (int i = n - 1; i >= 0; i--)
            str_printf(out, "L%.1f %.1f", at(place(&p->x, b[i].x)), at(place_y(p, b[i].min)));
        str_printf(out, "Z\" class=\"band s%d\"/>\n", colour);
    }
    str_put(out, "<path d=\"");
    for (int i = 0; i < n; i++)
        str_printf(out, "%c%.1f %.1f", i ? 'L' : 'M', at(place(&p->x, b[i].x)), at(place_y(p, b[i].mean)));
    str_printf(out, "\" class=\"curve s%d\"/>\n", colour);
}

void svg_curve(Str *out, const char *title, const char *x_name, const double *x, const double *y, int n, int colour) {
    SvgBucket b[SVG_POINTS_MAX];
    int m = svg_buckets(b, SVG_POINTS_MAX, x, y, n), points = 0;
    double lo = INFINITY, hi = -INFINITY, first = NAN, last = NAN;
    for (int i = 0; i < n; i++) {
        if (!isfinite(x[i]) || !isfinite(y[i])) continue;
        if (points++ == 0) first = y[i];
        last = y[i];
        lo = fmin(lo, y[i]);
        hi = fmax(hi, y[i]);
    }
    colour = (int)clamp(colour, 0, 4);
    open_svg(out, 168, title);
    if (m == 0) {
        str_put(out, "No data.</desc>\n");
        text(out, WIDTH / 2, 80, "dim", "middle");
        str_put(out, "no data</text></svg>\n");
        return;
    }
    str_put(out, "First ");
    html_number(out, first);
    str_put(out, ", last ");
    html_number(out, last);
    str_put(out, ", smallest ");
    html_number(out, lo);
    str_put(out, ", largest ");
    html_number(out, hi);
    str_printf(out, "; %d points", points);
    if (points < n) str_printf(out, ", %d not finite", n - points);
    str_put(out, ".</desc>\n");
    Plot p;
    scale(&p, b, m);
    draw_frame(out, &p, x_name);
    draw_curve(out, &p, b, m, points > m, colour);
    str_put(out, "</svg>\n");
}
