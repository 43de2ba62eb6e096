package catalog

import (
	"strconv"

	catalogv1 "github.com/samecart/samecart/proto/catalog/v1"
)

const (
	demoSKUs    = 999
	demoSellers = 9
)

var (
	qualities = []string{"Wireless", "Compact", "Folding", "Quiet", "Ceramic", "Bamboo", "Woven", "Brushed", "Portable", "Insulated", "Striped", "Solar"}
	things    = []string{"Mouse", "Keyboard", "Lamp", "Kettle", "Backpack", "Notebook", "Speaker", "Bottle", "Blanket", "Chair", "Charger", "Clock", "Tray", "Umbrella", "Headphones", "Planter", "Scale"}
	grams     = []int64{120, 700, 1400, 1200, 900, 300, 800, 350, 1100, 6500, 150, 400, 600, 450, 280, 1800, 1600} // of things, in their order
	shops     = []string{"Harbour Goods", "Lantern Street", "Fern and Field", "Copper Fox", "Northgate Supply", "Juniper Row", "Tidepool", "Mill Lane", "Skylark Trading"}
)

// demo makes product SKU-n of seller-s.
func demo(n, s int) *catalogv1.Product {
	sku, seller := "SKU-"+strconv.Itoa(n), "seller-"+strconv.Itoa(s)
	v := hash("name", sku)
	thing := v / 64 % uint64(len(things))
	if n == 456 { // the one that examples and documents name
		thing = 0
	}
	// 4.99 to 203.99, which the sellers undercut or exceed by up to 2.00.
	base := int64(hash("price", sku)%200)*100 + 499
	p := &catalogv1.Product{
		SkuId: sku, SellerId: seller, Seller: shops[s-1],
		Name:     qualities[v%uint64(len(qualities))] + " " + things[thing],
		Currency: "USD", PriceMinorUnits: base + int64(hash("price", sku, seller)%401) - 200,
		Stock: stockOf(sku, seller),
		// Within a tenth of what such a thing weighs, the same from every seller.
		WeightGrams: grams[thing] * (90 + int64(hash("weight", sku)%21)) / 100,
	}
	if n == 456 {
		p.Name = "Wireless Mouse"
		if s == 1 {
			p.PriceMinorUnits, p.Stock = 2999, 120
		}
	}
	return p
}
