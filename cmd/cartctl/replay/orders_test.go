package replay

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const header = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"

func read(t testing.TB, text string) ([]Line, error) {
	t.Helper()
	r, err := NewReader("orders.csv", io.NopCloser(strings.NewReader(text)))
	if err != nil {
		return nil, err
	}
	var out []Line
	for {
		line, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out = append(out, line)
	}
}

func TestReaderOddRows(t *testing.T) {
	got, err := read(t, "\ufeff"+header+
		"536365,85123A,\"HEART, WHITE\",6,2010-12-01 08:26:00,2.55,17850,United Kingdom\n"+
		"C536379,D,Discount,-1,2010-12-01 09:41:00,27.50,14527,United Kingdom\n"+
		"536370,POST,POSTAGE,3,2010-12-01 08:45:00,18,12583,France\n"+
		"536414,22139,,56,2010-12-01 11:52:00,0,,United Kingdom\n"+
		"A563187,B,Adjust bad debt,1,2011-08-12 14:52:00,-11062.06,,United Kingdom\n"+
		"550193,PADS,\"PADS \"\"TO\"\" MATCH\",1,2011-04-15 09:27:00,0.001,13952,EIRE\n"+
		"541431,23166,JAR,74215,2011-01-18 10:01:00,1.04,12346,\n"+
		"2,T\xffA,d,1,x,2,,USA\n"+
		"1,gift_0001_80,\"two\nlines\",9223372036854775807,x,.5,,USA\n")
	want := []Line{
		{2, "536365", "85123A", 6, 255, "United Kingdom", true},
		{3, "C536379", "D", -1, 2750, "United Kingdom", false},
		{4, "536370", "POST", 3, 1800, "France", true},
		{5, "536414", "22139", 56, 0, "United Kingdom", false},
		{6, "A563187", "B", 1, -1106206, "United Kingdom", false},
		{7, "550193", "PADS", 1, 1, "EIRE", true},
		{8, "541431", "23166", 74215, 104, "", true},
		{9, "2", "T\ufffdA", 1, 200, "USA", true},
		{10, "1", "gift_0001_80", 1<<63 - 1, 50, "USA", true},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("err %v\n got %v\nwant %v", err, got, want)
	}
}

func TestReaderNamesTheLine(t *testing.T) {
	good := "1,A,d,1,x,1,,USA\n"
	for _, c := range []struct {
		name, text string
		line       int
		says       string
	}{
		{"empty file", "", 1, "empty"},
		{"no column", "InvoiceNo,StockCode,Quantity,Country\n", 1, "UnitPrice"},
		{"too few fields", header + good + "2,A,d,1\n", 3, "fields"},
		{"no number", header + "1,A,d,six,x,1,,USA\n", 2, `"six"`},
		{"number too large", header + good + good + "1,A,d,99999999999999999999,x,1,,USA\n", 4, "Quantity"},
		{"no price", header + "1,A,d,1,x,,,USA\n", 2, "UnitPrice"},
		{"odd price", header + "1,A,d,1,x,1e3,,USA\n", 2, `"1e3"`},
		{"huge price", header + "1,A,d,1,x,99999999999999999999,,USA\n", 2, "too large"},
		{"no invoice", header + ",A,d,1,x,1,,USA\n", 2, "InvoiceNo"},
		{"open quote", header + good + "1,A,\"d,1,x,1,,USA\n", 3, "quote"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := read(t, c.text)
			var data *DataError
			if !errors.As(err, &data) || data.Row != c.line || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("err = %v, want line %d and %q", err, c.line, c.says)
			}
			if !strings.HasPrefix(err.Error(), fmt.Sprintf("orders.csv, line %d: ", c.line)) {
				t.Errorf("%q does not start with file and line", err)
			}
		})
	}
}

// TestReaderNeverPanics feeds rows of anything.
func TestReaderNeverPanics(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		field := rapid.SampledFrom([]string{"", "1", "-1", "\"", "a\nb", "1.5", ".", "-", "\x00", "\xff", ",", "C1", "9999999999999999999"})
		var text strings.Builder
		if rapid.Bool().Draw(rt, "header") {
			text.WriteString(header)
		}
		for range rapid.IntRange(0, 4).Draw(rt, "rows") {
			text.WriteString(strings.Join(rapid.SliceOfN(field, 1, 9).Draw(rt, "row"), ",") + "\n")
		}
		_, err := read(t, text.String())
		var data *DataError
		if err != nil && !errors.As(err, &data) {
			rt.Fatalf("err = %T %v, want a DataError", err, err)
		}
	})
}

// TestPenniesAgreesWithRationals checks the rounding against exact fractions.
func TestPenniesAgreesWithRationals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`-?[0-9]{1,7}(\.[0-9]{0,5})?`).Draw(t, "price")
		got, err := pennies(text)
		if err != nil {
			t.Fatal(err)
		}
		exact, ok := new(big.Rat).SetString(strings.TrimSuffix(text, "."))
		if !ok {
			t.Fatalf("%q is no number", text)
		}
		exact.Mul(exact, big.NewRat(100, 1))
		want, _ := new(big.Int).SetString(exact.FloatString(0), 10) // half away from zero
		if want.Sign() == 0 {
			want.SetInt64(int64(exact.Sign()))
		}
		if got != want.Int64() {
			t.Fatalf("pennies(%q) = %d, want %v", text, got, want)
		}
	})
}

func TestOrdersFromFiles(t *testing.T) {
	text := header + "1,A,d,1,x,1,,USA\n" + "1,B,d,-1,x,1,,USA\n" + "1,B,d,2,x,1,,USA\n"
	dir := t.TempDir()
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"plain.csv": []byte(text), "zipped.csv.gz": zipped.Bytes()} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if sales, others, err := Count(file, 0); err != nil || sales != 2 || others != 1 {
			t.Errorf("%s: %d sales, %d others, %v", name, sales, others, err)
		}
		if sales, others, err := Count(file, 1); err != nil || sales != 1 || others != 0 {
			t.Errorf("%s, limited: %d sales, %d others, %v", name, sales, others, err)
		}
	}
	torn := filepath.Join(dir, "torn.gz")
	if err := os.WriteFile(torn, zipped.Bytes()[:zipped.Len()-9], 0o600); err != nil {
		t.Fatal(err)
	}
	var data *DataError
	if _, _, err := Count(torn, 0); !errors.As(err, &data) {
		t.Errorf("a torn gzip file: %v", err)
	}
	if _, _, err := Count(filepath.Join(dir, "none"), 0); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if _, _, err := Count(dir, 0); err == nil {
		t.Error("a directory was read")
	}
}

// TestEmbedded pins the shape of the embedded orders to what doc.go says.
func TestEmbedded(t *testing.T) {
	if len(embedded) > 1_500_000 {
		t.Errorf("%d bytes are embedded, the limit is 1.5 MB", len(embedded))
	}
	sales, others, err := Count("", 0)
	if err != nil || sales+others != 107_348 {
		t.Fatalf("%d sales and %d others, %v; want 107,348 rows", sales, others, err)
	}
	if others < 1000 || sales < 100_000 {
		t.Errorf("%d sales, %d others: not the shape of the real data", sales, others)
	}
}
