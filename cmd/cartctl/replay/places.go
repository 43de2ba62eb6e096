package replay

import (
	"fmt"
	"slices"
	"strings"
)

// areas is the static map from the orders' countries to the part of the world
// whose region is nearest. Countries that are not here count as European: the
// shop is in London.
var areas = map[string]string{
	"USA": "us", "Canada": "us", "Brazil": "us",

	"Australia": "ap", "Bahrain": "ap", "Hong Kong": "ap", "Japan": "ap", "RSA": "ap",
	"Saudi Arabia": "ap", "Singapore": "ap", "United Arab Emirates": "ap",

	"Austria": "eu", "Belgium": "eu", "Channel Islands": "eu", "Cyprus": "eu",
	"Czech Republic": "eu", "Denmark": "eu", "EIRE": "eu", "European Community": "eu",
	"Finland": "eu", "France": "eu", "Germany": "eu", "Greece": "eu", "Iceland": "eu",
	"Israel": "eu", "Italy": "eu", "Lebanon": "eu", "Lithuania": "eu", "Malta": "eu",
	"Netherlands": "eu", "Norway": "eu", "Poland": "eu", "Portugal": "eu", "Spain": "eu",
	"Sweden": "eu", "Switzerland": "eu", "United Kingdom": "eu", "Unspecified": "eu",
}

// otherArea is where countries outside the map belong.
const otherArea = "eu"

// Places gives each country its nearest region. It does not change, so any
// number of goroutines may use it.
type Places struct {
	regions []string
	nearest map[string]int // by area
}

// NewPlaces places the areas on regions, at least one: an area's region is the
// first whose name starts with the area and a dash, else the first of all.
func NewPlaces(regions []string) Places {
	p := Places{regions: slices.Clone(regions), nearest: map[string]int{}}
	for _, area := range areas {
		p.nearest[area] = max(0, slices.IndexFunc(regions, func(r string) bool {
			return strings.HasPrefix(r, area+"-")
		}))
	}
	return p
}

// Devices returns the regions of the two devices of the nth invoice: the
// nearest to country, and one of the others, each in its turn. With one region
// alone both are that.
func (p Places) Devices(country string, n int) [2]string {
	area, ok := areas[country]
	if !ok {
		area = otherArea
	}
	first := p.nearest[area]
	if len(p.regions) == 1 {
		return [2]string{p.regions[0], p.regions[0]}
	}
	second := (first + 1 + n%(len(p.regions)-1)) % len(p.regions)
	return [2]string{p.regions[first], p.regions[second]}
}

// Lines describes the map, a line for each area.
func (p Places) Lines() []string {
	countries := map[string][]string{}
	for country, area := range areas {
		countries[area] = append(countries[area], country)
	}
	var out []string
	for area, names := range countries {
		slices.Sort(names)
		if area == otherArea {
			names = append(names, "all others")
		}
		out = append(out, fmt.Sprintf("%s: %s", p.regions[p.nearest[area]], strings.Join(names, ", ")))
	}
	slices.Sort(out)
	return out
}
