package drill

import (
	"fmt"
	"html"
	"math"
	"strings"
	"time"
)

// The picture's layout, in its own units.
const (
	picWidth  = 960
	plotLeft  = 92
	plotRight = picWidth - 24
	callsTop  = 124
	callsHigh = 110
	stripHigh = 14
	panelHigh = 96
	panelGap  = 46
)

// Its colours, on a ground of its own: it stands on light and dark pages alike.
const (
	ground   = "#ffffff"
	ink      = "#1f2430"
	faint    = "#667085"
	grid     = "#e7eaf0"
	okInk    = "#2f9e6e"
	failInk  = "#d64545"
	bandInk  = "#f5b84b"
	p99Ink   = "#8a5cd1"
	p50Ink   = "#3b73d9"
	bucketMS = 100
)

var regionInks = []string{"#3b73d9", "#d97a1f", "#1d9a8a", "#8a5cd1", "#b0486f"}

// canvas writes SVG elements; x is time.
type canvas struct {
	strings.Builder

	until time.Duration
}

func (c *canvas) x(at time.Duration) float64 {
	share := float64(at) / float64(max(c.until, 1))
	return plotLeft + share*(plotRight-plotLeft)
}

func (c *canvas) add(format string, args ...any) {
	_, _ = fmt.Fprintf(c, format+"\n", args...) // never fails
}

func (c *canvas) text(x, y float64, class, text string) {
	c.add(`<text x="%.1f" y="%.1f" class="%s">%s</text>`, x, y, class, html.EscapeString(text))
}

func (c *canvas) rect(x, y, w, h float64, fill string, more string) {
	c.add(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"%s/>`, x, y, w, h, fill, more)
}

// line draws points, and leaves out those that are not there.
func (c *canvas) line(points []point, ink string, wide float64) {
	var path strings.Builder
	pen := "M"
	for _, p := range points {
		if math.IsNaN(p.y) {
			pen = "M"
			continue
		}
		fmt.Fprintf(&path, "%s%.1f %.1f", pen, p.x, p.y)
		pen = "L"
	}
	if path.Len() > 0 {
		c.add(`<path d="%s" fill="none" stroke="%s" stroke-width="%.1f" stroke-linejoin="round" stroke-linecap="round"/>`, path.String(), ink, wide)
	}
}

type point struct{ x, y float64 }

// scale is a panel's y-axis in logarithms of milliseconds.
type scale struct {
	top, high float64
	lo, hi    float64 // ms
}

func (s scale) y(d time.Duration) float64 {
	ms := min(max(float64(d)/float64(time.Millisecond), s.lo), s.hi)
	return s.top + s.high*(1-math.Log(ms/s.lo)/math.Log(s.hi/s.lo))
}

// axis draws the lines of a scale's powers of ten.
func (c *canvas) axis(s scale) {
	for ms := s.lo; ms <= s.hi*1.01; ms *= 10 {
		d := time.Duration(ms * float64(time.Millisecond))
		y := s.y(d)
		c.add(`<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="%s"/>`, plotLeft, plotRight, y, y, grid)
		label := fmt.Sprintf("%.0f ms", ms)
		if ms >= 1000 {
			label = fmt.Sprintf("%.0f s", ms/1000)
		}
		c.text(plotLeft-8, y+4, "a e", label)
	}
}

// title heads a panel; keys are names and their inks.
func (c *canvas) title(y float64, text string, keys ...string) {
	c.text(plotLeft, y, "h", text)
	x := float64(plotRight)
	for i := len(keys) - 2; i >= 0; i -= 2 {
		x -= 7*float64(len([]rune(keys[i]))) + 4
		c.text(x, y, "a", keys[i])
		c.rect(x-15, y-9, 10, 10, keys[i+1], ` rx="2"`)
		x -= 28
	}
}

// timeline draws the report: faults as bands behind availability, each region's
// edits, latency and lag.
func timeline(r *Report) string {
	regionsTop := float64(callsTop + callsHigh + panelGap)
	latencyTop := regionsTop + float64(len(r.Regions))*(stripHigh+6) + panelGap - 8
	lagTop := latencyTop + panelHigh + panelGap
	bottom := lagTop + panelHigh
	high := bottom + 44

	c := &canvas{until: r.until}
	c.add(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %.0f" width="%d" height="%.0f" role="img" aria-label="Timeline of the drill %s">`, picWidth, high, picWidth, high, html.EscapeString(r.Drill.Name))
	c.add(`<style>text{font:12px system-ui,-apple-system,"Segoe UI",sans-serif;fill:%s}.t{font-size:17px;font-weight:600}.h{font-weight:600}.a{fill:%s}.e{text-anchor:end}.m{text-anchor:middle}.b{fill:#8a5a00;font-weight:600}.bad{fill:%s;font-weight:600}</style>`, ink, faint, failInk)
	c.rect(0, 0, picWidth, high, ground, ` rx="10"`)
	c.text(plotLeft, 32, "t", "Drill "+r.Drill.Name)
	verdict, class := fmt.Sprintf("%d edits acknowledged, %d lost; no shopper waited longer than %s; as before %s after the fault", r.Acked, r.Lost, seconds(r.Unavailable), seconds(r.RecoveredIn)), "a"
	if len(r.Violations) > 0 {
		verdict, class = r.Verdict()+"; "+verdict, "bad"
	}
	c.text(plotLeft, 52, class, verdict)

	// Bands first: all else is drawn over them.
	end, up := 0.0, 0
	for _, b := range r.bands {
		x, w := c.x(b.from), max(2, c.x(b.to)-c.x(b.from))
		c.rect(x, callsTop-16, w, bottom-callsTop+16, bandInk, ` fill-opacity="0.18"`)
		c.add(`<line x1="%.1f" x2="%.1f" y1="%d" y2="%.1f" stroke="%s" stroke-width="1.5"/>`, x, x, callsTop-16, bottom, bandInk)
		left := min(x+5, plotRight-6.6*float64(len([]rune(b.label))))
		if up = 1 - up; left > end {
			up = 0
		}
		end = left + 7.5*float64(len([]rune(b.label)))
		c.text(left, float64(callsTop-20-14*up), "b", b.label)
	}
	c.calls(r)
	c.strips(r, regionsTop)

	s := scale{latencyTop, panelHigh, 1, 10_000}
	c.title(latencyTop-10, "time to an answer, retries included", "p50", p50Ink, "p99", p99Ink)
	c.axis(s)
	const width = 500 * time.Millisecond
	var p50, p99 []point
	for i, b := range buckets(r.calls, width, r.until) {
		x, none := c.x(min(r.until, time.Duration(i)*width+width/2)), math.NaN()
		if b.OK == 0 {
			p50, p99 = append(p50, point{x, none}), append(p99, point{x, none})
			continue
		}
		p50, p99 = append(p50, point{x, s.y(b.P50)}), append(p99, point{x, s.y(b.P99)})
	}
	c.line(p99, p99Ink, 1.6)
	c.line(p50, p50Ink, 1.6)

	s = scale{lagTop, panelHigh, 10, 100_000}
	var keys []string
	for i, region := range r.Regions {
		keys = append(keys, region, regionInks[i%len(regionInks)])
	}
	c.title(lagTop-10, "lag: how long ago the oldest edit was made that another region lacks", keys...)
	c.axis(s)
	for i, region := range r.Regions {
		c.line(c.lag(r, region, s), regionInks[i%len(regionInks)], 1.6)
	}
	c.clock(bottom)
	c.add(`</svg>`)
	return c.String()
}

// calls draws those that were answered and those in vain, stacked.
func (c *canvas) calls(r *Report) {
	const width = bucketMS * time.Millisecond
	all := buckets(r.calls, width, r.until)
	most := 1
	for _, b := range all {
		most = max(most, b.OK+b.Failed)
	}
	c.title(callsTop-44, fmt.Sprintf("shoppers' calls in each %d ms", bucketMS), "answered", okInk, "in vain", failInk)
	for _, n := range []int{0, most} {
		y := callsTop + callsHigh*(1-float64(n)/float64(most))
		c.add(`<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="%s"/>`, plotLeft, plotRight, y, y, grid)
		c.text(plotLeft-8, y+4, "a e", fmt.Sprint(n))
	}
	wide := c.x(width) - c.x(0)
	for i, b := range all {
		x := c.x(time.Duration(i) * width)
		okHigh, failHigh := callsHigh*float64(b.OK)/float64(most), callsHigh*float64(b.Failed)/float64(most)
		if b.OK > 0 {
			c.rect(x, callsTop+callsHigh-okHigh, max(0.6, wide-0.4), okHigh, okInk, "")
		}
		if b.Failed > 0 {
			c.rect(x, callsTop+callsHigh-okHigh-failHigh, max(0.6, wide-0.4), failHigh, failInk, "")
		}
	}
}

// strips draws when each region made edits by itself.
func (c *canvas) strips(r *Report, top float64) {
	c.title(top-10, "each region by itself", "makes edits", okInk, "a shard makes none", failInk)
	for i, region := range r.Regions {
		y := top + float64(i)*(stripHigh+6)
		c.text(plotLeft-8, y+stripHigh-3, "a e", region)
		c.rect(plotLeft, y, plotRight-plotLeft, stripHigh, okInk, ` fill-opacity="0.75" rx="3"`)
		for _, o := range r.Outages[region] {
			from, to := c.x(min(o.from, r.until)), c.x(min(o.to, r.until))
			c.rect(from, y, max(1.5, to-from), stripHigh, failInk, "")
		}
	}
}

// lag is a region's, with a gap where it was not told for long.
func (c *canvas) lag(r *Report, region string, s scale) (out []point) {
	var last time.Duration
	for _, l := range r.lags {
		if l.region != region || l.at > r.until {
			continue
		}
		if len(out) > 0 && l.at-last > time.Second {
			out = append(out, point{c.x(l.at), math.NaN()})
		}
		out, last = append(out, point{c.x(l.at), s.y(l.lag)}), l.at
	}
	return out
}

// clock draws the seconds below.
func (c *canvas) clock(bottom float64) {
	step := time.Second
	for _, s := range []time.Duration{2, 5, 10, 20, 30, 60, 120, 300, 600} {
		if c.until/step <= 12 {
			break
		}
		step = s * time.Second
	}
	c.add(`<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="%s"/>`, plotLeft, plotRight, bottom+6, bottom+6, faint)
	for at := time.Duration(0); at <= c.until; at += step {
		c.add(`<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s"/>`, c.x(at), c.x(at), bottom+6, bottom+11, faint)
		c.text(c.x(at), bottom+26, "a m", fmt.Sprintf("%.0f s", at.Seconds()))
	}
}
