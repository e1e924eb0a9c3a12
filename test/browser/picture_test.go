package browser

import (
	"cmp"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// pictureSize is how large a picture in the documents may be: they are in every clone.
const pictureSize = 120 << 10

// The pictures in the documents are small.
func TestPicturesAreSmall(t *testing.T) {
	for _, path := range picturesIn(t, "../../docs/images") {
		if info, err := os.Stat(path); err != nil || info.Size() > pictureSize {
			t.Errorf("%s: %d bytes, %v", path, info.Size(), err)
		}
	}
}

func picturesIn(t *testing.T, folder string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(folder, "*.png"))
	if err != nil || len(all) == 0 {
		t.Fatalf("%d pictures: %v", len(all), err)
	}
	return all
}

// shrink leaves a picture the 256 colours of which it has most: a page has hardly more,
// but for the edges of its letters.
func shrink(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	picture, err := png.Decode(f)
	f.Close()
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if f, err = os.Create(path); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(f, ofFewColours(picture)); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func ofFewColours(picture image.Image) *image.Paletted {
	pixels := make(map[color.Color]int)
	bounds := picture.Bounds()
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			pixels[picture.At(x, y)]++
		}
	}
	var palette color.Palette
	for c := range pixels {
		palette = append(palette, c)
	}
	slices.SortFunc(palette, func(a, b color.Color) int { return cmp.Compare(pixels[b], pixels[a]) })
	palette = palette[:min(len(palette), 256)]

	few := image.NewPaletted(bounds, palette)
	nearest := make(map[color.Color]uint8)
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			c := picture.At(x, y)
			i, known := nearest[c]
			if !known {
				i = uint8(palette.Index(c))
				nearest[c] = i
			}
			few.SetColorIndex(x, y, i)
		}
	}
	return few
}
