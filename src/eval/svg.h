/* eval/svg.h — small charts as inline SVG: intervals, bars, curves. Each is 340 units wide, so that it is readable on a
 * phone and laid out side by side on a screen. Colours are the classes s0..s4 of the page's style sheet; every chart
 * says in <title> and <desc> what it shows. Equal data give equal bytes. Values that are not finite are left out, and
 * said so. */
#ifndef DIKAST_EVAL_SVG_H
#define DIKAST_EVAL_SVG_H

#include "base/str.h"

typedef enum { SVG_NUMBER, SVG_PERCENT, SVG_POINTS } SvgUnit; /* POINTS: differences of shares, in percentage points */
void svg_value(Str *out, double v, SvgUnit unit); /* as text: 0.0123, 47.5 %, +3.1 */

typedef struct {
    const char *label;
    double value, lo, hi; /* lo, hi NaN: no interval */
    int colour;           /* 0..4 */
} SvgDot;
/* One row per dot with its interval, on the axis [lo, hi]; a line at 0 when it lies inside. */
void svg_dots(Str *out, const char *title, const SvgDot *dot, int n, double lo, double hi, SvgUnit unit);

typedef struct {
    const char *label;
    double value;
    int colour;
} SvgBar;
void svg_bars(Str *out, const char *title, const SvgBar *bar, int n); /* counts, from 0 */

typedef struct {
    const char *label;
    double x, x_lo, x_hi, y, y_lo, y_hi; /* intervals NaN: none */
    int colour;
    bool front; /* no other point is better on both: joined by a line */
} SvgPoint;
/* Points in a plane with their intervals; x is better to the left, y upwards. The axes hold all intervals. */
void svg_plane(Str *out, const char *title, const char *x_name, SvgUnit x_unit, const char *y_name, SvgUnit y_unit,
               const SvgPoint *point, int n);

/* A curve of any length: at most SVG_POINTS_MAX buckets of equal numbers of points, their mean as a line and, when
 * there are more points than buckets, their range as a band. A logarithmic scale is taken when all means are positive
 * and start and end of the series differ by more than a factor of 10. */
enum { SVG_POINTS_MAX = 120 };
void svg_curve(Str *out, const char *title, const char *x_name, const double *x, const double *y, int n, int colour);

/* Ticks 1, 2 or 5 times a power of ten inside [lo, hi]: at most `most` (2..11). Returns their number; tick[] holds 11.
 */
int svg_ticks(double tick[11], double lo, double hi, int most);

typedef struct {
    double x, mean, min, max;
} SvgBucket;
/* Mean and range of equal shares of the points; points that are not finite are skipped. Returns the number of buckets.
 */
int svg_buckets(SvgBucket *out, int most, const double *x, const double *y, int n);

#endif
