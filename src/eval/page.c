/* The frame of every page: head, style sheet. */
#include "eval/html.h"

/* Contrast: text at least 4.5:1, lines of charts at least 3:1, on either background. */
// clang-format off
static const char STYLE[] =
    ":root{color-scheme:light dark;--bg:#fff;--fg:#1a1d21;--dim:#59616b;--line:#d5dae0;--soft:#f3f5f7;"
    "--link:#0b57c5;"
    "--good:#136c34;--bad:#b3261e;--s0:#66707c;--s1:#b45309;--s2:#1d5fd0;--s3:#8424c9;--s4:#b3261e}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#14171b;--fg:#e8eaed;--dim:#a7afb9;--line:#3a414a;"
    "--soft:#1e2329;"
    "--link:#8ab8ff;--good:#6fd08c;--bad:#ff8f86;--s0:#a0a9b4;--s1:#f2a33c;--s2:#6fa8ff;--s3:#cf9bff;"
    "--s4:#ff8f86}}\n"
    "*{box-sizing:border-box}\n"
    "body{margin:0;background:var(--bg);color:var(--fg);"
    "font:16px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}\n"
    "main,header,nav,footer{max-width:66rem;margin:0 auto;padding:0 1rem}\n"
    "header{padding-top:1.5rem}\n"
    "h1{font-size:1.7rem;line-height:1.2;margin:.2rem 0 .6rem}\n"
    "h2{font-size:1.3rem;margin:2.6rem 0 .6rem;padding-top:.7rem;border-top:1px solid var(--line)}\n"
    "h3{font-size:1.05rem;margin:1.6rem 0 .4rem}\n"
    "p,ul,ol,dl{margin:.5rem 0;max-width:46rem}\n"
    "a{color:var(--link)}\n"
    "nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1rem;padding:0;margin:.8rem 0}\n"
    ".dim,figcaption span,caption{color:var(--dim)}\n"
    ".good{color:var(--good)}\n"
    ".bad{color:var(--bad)}\n"
    ".kicker{color:var(--dim);margin:0}\n"
    ".notice{border-left:4px solid var(--bad);padding:.3rem .8rem;background:var(--soft)}\n"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(14rem,1fr));gap:.8rem;margin:1rem 0}\n"
    ".tile{background:var(--soft);border-radius:.5rem;padding:.7rem .9rem}\n"
    ".tile h3{margin:0 0 .3rem;font-size:.95rem}\n"
    ".tile dl{display:grid;grid-template-columns:1fr auto;margin:0;gap:0 .6rem}\n"
    ".tile dt{color:var(--dim)}\n"
    ".tile dd{margin:0;text-align:right;font-weight:600;font-variant-numeric:tabular-nums}\n"
    ".charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,18.5rem),1fr));gap:1rem 1.4rem;"
    "margin:1rem 0;align-items:end}\n"
    "figure{margin:0;min-width:0}\n"
    "figcaption{font-weight:600;font-size:.95rem}\n"
    "figcaption span{font-weight:400}\n"
    "svg{display:block;width:100%;max-width:27rem;height:auto;"
    "font:12px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}\n"
    "svg text{fill:var(--fg);paint-order:stroke;stroke:var(--bg);stroke-width:4px;stroke-linejoin:round}\n"
    "svg .dim{fill:var(--dim)}\n"
    "svg .strong{font-weight:600}\n"
    ".s0{--c:var(--s0)}.s1{--c:var(--s1)}.s2{--c:var(--s2)}.s3{--c:var(--s3)}.s4{--c:var(--s4)}\n"
    ".grid{stroke:var(--line)}.axis{stroke:var(--dim)}.bar{stroke:var(--c);stroke-width:3;opacity:.55}\n"
    ".dot,.fill{fill:var(--c)}.track{fill:var(--soft)}.band{fill:var(--c);opacity:.22}\n"
    ".curve{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round}\n"
    ".scroll{overflow-x:auto;margin:.8rem 0;position:relative}\n"
    "table{border-collapse:collapse;font-size:.93rem}\n"
    "caption{text-align:left;padding:.2rem 0;font-size:.93rem}\n"
    "th,td{text-align:left;vertical-align:top;padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--line)}\n"
    "th{font-weight:600}\n"
    "thead th{vertical-align:bottom}\n"
    "th.n{text-align:right}\n"
    "tbody th{font-weight:400;min-width:8.5rem;overflow-wrap:anywhere}\n"
    ".n{text-align:right;font-variant-numeric:tabular-nums}\n"
    ".nw,td.n{white-space:nowrap}\n"
    ".n small{display:block;color:var(--dim);font-size:.82rem}\n"
    "code,pre{font:.87em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}\n"
    "pre{white-space:pre-wrap;background:var(--soft);padding:.8rem;border-radius:.5rem;margin:.5rem 0}\n"
    "details{margin:.8rem 0}\n"
    "summary{cursor:pointer;padding:.25rem 0;font-weight:600}\n"
    ".pair{border:1px solid var(--line);border-radius:.5rem;padding:.6rem .8rem;margin:.7rem 0}\n"
    ".pair h4{margin:0 0 .4rem;font-size:1rem;overflow-wrap:anywhere;white-space:pre-wrap}\n"
    ".sides{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,14rem),1fr));gap:.6rem}\n"
    ".sides p,.said{margin:.1rem 0;white-space:pre-wrap;overflow-wrap:anywhere}\n"
    ".pair h4,.sides p,.said,tbody th{unicode-bidi:plaintext}\n" /* each line runs the way its first letter does */
    ".who{font-weight:600;font-size:.9rem;border-left:4px solid var(--c,var(--line));padding-left:.5rem}\n"
    ".who span{font-weight:400;color:var(--dim)}\n"
    "@media(max-width:40rem){tbody th{position:sticky;left:0;background:var(--bg);max-width:9.5rem}}\n"
    "@media print{nav{display:none}h2{break-after:avoid}figure,.pair,tr{break-inside:avoid}}\n";

/* Its own string: compilers need not take longer ones. */
static const char VEIL[] =
    ".veil{position:relative;display:block;cursor:pointer}\n"
    ".veil input{position:absolute;opacity:0;width:1px;height:1px}\n"
    ".veil .blur{filter:blur(7px);user-select:none}\n"
    ".veil .lift{color:var(--link);font-size:.9rem}\n"
    ".veil input:checked~.blur{filter:none;user-select:auto}\n"
    ".veil input:checked~.lift{display:none}\n"
    ".veil input:focus-visible~.lift{outline:2px solid var(--link)}\n"
    "ul.notice{list-style:none}\n"
    ".front{fill:none;stroke:var(--dim);stroke-dasharray:4 3}\n";
// clang-format on

void html_begin(Str *out, const char *title) {
    str_put(out, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\n"
                 "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
                 "<link rel=\"icon\" href=\"data:,\"/>\n<title>");
    html_text(out, title);
    str_printf(out, "</title>\n<style>\n%s%s</style></head>\n<body>\n", STYLE, VEIL);
}

void html_veil(Str *out, const char *text, bool hide) {
    if (!hide) {
        str_put(out, "<p class=\"said\">");
        html_text(out, text);
        str_put(out, "</p>");
        return;
    }
    str_put(out, "<label class=\"veil\"><input type=\"checkbox\" aria-label=\"show text that may be harmful\"/>"
                 "<span class=\"lift\">May be harmful: click to read.</span><span class=\"said blur\">");
    html_text(out, text);
    str_put(out, "</span></label>");
}

void html_section(Str *out, const char *id, const char *title) {
    str_printf(out, "<section aria-labelledby=\"%s\">\n<h2 id=\"%s\">", id, id);
    html_text(out, title);
    str_put(out, "</h2>\n");
}
