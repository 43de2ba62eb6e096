package replay

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPlaces(t *testing.T) {
	p := NewPlaces([]string{"us-east", "eu-west", "ap-south"})
	for _, c := range []struct {
		country string
		n       int
		want    [2]string
	}{
		{"United Kingdom", 0, [2]string{"eu-west", "ap-south"}},
		{"United Kingdom", 1, [2]string{"eu-west", "us-east"}},
		{"United Kingdom", 2, [2]string{"eu-west", "ap-south"}},
		{"USA", 0, [2]string{"us-east", "eu-west"}},
		{"Japan", 1, [2]string{"ap-south", "eu-west"}},
		{"Atlantis", 0, [2]string{"eu-west", "ap-south"}},
		{"", 0, [2]string{"eu-west", "ap-south"}},
	} {
		if got := p.Devices(c.country, c.n); got != c.want {
			t.Errorf("%s, invoice %d: %v, want %v", c.country, c.n, got, c.want)
		}
	}
	if got := NewPlaces([]string{"one"}).Devices("Japan", 7); got != [2]string{"one", "one"} {
		t.Errorf("one region: %v", got)
	}
	text := strings.Join(p.Lines(), "\n")
	for _, want := range []string{"us-east: Brazil, Canada, USA", "eu-west: Austria", "all others", "ap-south: Australia"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}

// TestPlacesUsesTwoRegions checks the devices of any invoice in any set of
// regions: two different ones, in turn over all others.
func TestPlacesUsesTwoRegions(t *testing.T) {
	countries := []string{"United Kingdom", "USA", "Japan", "nowhere"}
	rapid.Check(t, func(t *rapid.T) {
		regions := rapid.SliceOfNDistinct(rapid.StringMatching(`(us|eu|ap|sa)-[a-z]{1,3}`), 2, 5, rapid.ID).Draw(t, "regions")
		p := NewPlaces(regions)
		country := rapid.SampledFrom(countries).Draw(t, "country")
		seconds := map[string]bool{}
		for n := range len(regions) - 1 {
			d := p.Devices(country, n)
			if d[0] == d[1] || !slices.Contains(regions, d[0]) || !slices.Contains(regions, d[1]) {
				t.Fatalf("invoice %d: %v of %v", n, d, regions)
			}
			seconds[d[1]] = true
		}
		if len(seconds) != len(regions)-1 {
			t.Fatalf("second devices stand in %v of %v", seconds, regions)
		}
	})
}

// TestEveryCountryIsPlaced keeps the map in step with the embedded data.
func TestEveryCountryIsPlaced(t *testing.T) {
	r, err := Orders("")
	if err != nil {
		t.Fatal(err)
	}
	missing := map[string]int{}
	for {
		line, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := areas[line.Country]; !ok {
			missing[line.Country]++
		}
	}
	if len(missing) > 0 {
		t.Errorf("not in the map: %v", missing)
	}
}
