/* SPDX-License-Identifier: MIT */
/*
 * make_samples DIR: writes the sample images of grayscale, a few megapixels each.
 * make_samples --odd DIR: writes the small images of the test: every kind that grayscale reads or refuses.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <jpeglib.h>
#include <png.h>

struct size {
    uint32_t width, height;
};

struct pixel {
    uint8_t red, green, blue, alpha;
};

/* Rings over a slope of colours, a little rough, so that neither the eye nor the encoder finds it empty. */
static struct pixel scene(struct size size, uint32_t x, uint32_t y)
{
    uint32_t across = x * 255 / size.width, down = y * 255 / size.height;
    uint32_t dx = x > size.width / 2 ? x - size.width / 2 : size.width / 2 - x;
    uint32_t dy = y > size.height / 2 ? y - size.height / 2 : size.height / 2 - y;
    uint32_t ring = (dx * dx + dy * dy) / (size.width * size.height / 64 + 1) % 2;
    uint32_t rough = (x * 2654435761U ^ y * 2246822519U) >> 29;
    struct pixel pixel = { .alpha = (uint8_t)(255 - across) };
    pixel.red = (uint8_t)(ring ? 255 - across : across);
    pixel.green = (uint8_t)(down ^ rough);
    pixel.blue = (uint8_t)(ring ? down : (across + down) / 2);
    return pixel;
}

_Noreturn static void fail(const char *what, const char *path)
{
    fprintf(stderr, "cannot %s '%s'", what, path);
    perror("");
    exit(1);
}

static FILE *create(const char *name)
{
    FILE *file = fopen(name, "wb");
    if (!file)
        fail("create", name);
    return file;
}

static void finish(FILE *file, const char *name)
{
    if (fclose(file) != 0)
        fail("write", name);
}

/* --- PNG --------------------------------------------------------------------------------------------------- */

struct png_sample {
    const char *name;
    struct size size;
    int type, depth;
    bool interlaced, transparent; /* transparent: with a tRNS chunk */
};

static const struct png_sample png_samples[] = {
    { "sample1.png", { 2000, 1500 }, PNG_COLOR_TYPE_RGB, 8, false, false },
    { "sample3.png", { 2400, 1600 }, PNG_COLOR_TYPE_PALETTE, 8, false, false },
    { "sample4.png", { 1600, 1600 }, PNG_COLOR_TYPE_RGBA, 8, false, false },
};

static const struct png_sample odd_png_samples[] = {
    { "rgb_interlaced.png", { 301, 203 }, PNG_COLOR_TYPE_RGB, 8, true, false },
    { "rgb_transparent.png", { 301, 203 }, PNG_COLOR_TYPE_RGB, 8, false, true },
    { "rgba_interlaced.png", { 301, 203 }, PNG_COLOR_TYPE_RGBA, 8, true, false },
    { "gray8.png", { 301, 203 }, PNG_COLOR_TYPE_GRAY, 8, false, false },
    { "gray8_transparent.png", { 301, 203 }, PNG_COLOR_TYPE_GRAY, 8, false, true },
    { "gray1.png", { 301, 203 }, PNG_COLOR_TYPE_GRAY, 1, false, false },
    { "gray2_interlaced.png", { 301, 203 }, PNG_COLOR_TYPE_GRAY, 2, true, false },
    { "gray4.png", { 301, 203 }, PNG_COLOR_TYPE_GRAY, 4, false, false },
    { "gray_alpha.png", { 301, 203 }, PNG_COLOR_TYPE_GRAY_ALPHA, 8, false, false },
    { "palette1.png", { 301, 203 }, PNG_COLOR_TYPE_PALETTE, 1, false, false },
    { "palette2.png", { 301, 203 }, PNG_COLOR_TYPE_PALETTE, 2, false, true },
    { "palette4_interlaced.png", { 301, 203 }, PNG_COLOR_TYPE_PALETTE, 4, true, true },
    { "palette8_transparent.png", { 301, 203 }, PNG_COLOR_TYPE_PALETTE, 8, false, true },
    { "one_pixel.png", { 1, 1 }, PNG_COLOR_TYPE_RGB, 8, true, false },
    { "refused_rgb16.png", { 301, 203 }, PNG_COLOR_TYPE_RGB, 16, false, false },
    { "refused_gray16.png", { 301, 203 }, PNG_COLOR_TYPE_GRAY, 16, false, false },
};

/* The colour of a place in the palette, and the place of a colour: some bits of green, some of red, some of blue. */
static png_color palette_colour(int place, int depth)
{
    int reds = (depth + 1) / 3, greens = (depth + 2) / 3, blues = depth / 3;
    int red = place >> (greens + blues), green = place >> blues & ((1 << greens) - 1);
    int blue = place & ((1 << blues) - 1);
    png_color colour = { 90, 60, 30 };
    if (reds)
        colour.red = (uint8_t)(red * 255 / ((1 << reds) - 1));
    if (greens)
        colour.green = (uint8_t)(green * 255 / ((1 << greens) - 1));
    if (blues)
        colour.blue = (uint8_t)(blue * 255 / ((1 << blues) - 1));
    return colour;
}

static uint8_t palette_place(struct pixel pixel, int depth)
{
    int reds = (depth + 1) / 3, greens = (depth + 2) / 3, blues = depth / 3;
    int red = pixel.red >> (8 - reds), green = pixel.green >> (8 - greens), blue = pixel.blue >> (8 - blues);
    return (uint8_t)(red << (greens + blues) | green << blues | blue);
}

/* One pixel as the bytes that the kind asks for; returns how many. */
static size_t put_pixel(uint8_t *to, struct pixel pixel, const struct png_sample *sample)
{
    uint8_t channels[4] = { pixel.red, pixel.green, pixel.blue, pixel.alpha };
    size_t count = 4;
    if (sample->type == PNG_COLOR_TYPE_RGB) {
        count = 3;
    } else if (sample->type == PNG_COLOR_TYPE_PALETTE) {
        channels[0] = palette_place(pixel, sample->depth);
        count = 1;
    } else if (sample->type != PNG_COLOR_TYPE_RGBA) {
        channels[0] = (uint8_t)(sample->depth < 8 ? pixel.red >> (8 - sample->depth) : pixel.red);
        channels[1] = pixel.alpha;
        count = sample->type == PNG_COLOR_TYPE_GRAY ? 1 : 2;
    }
    size_t bytes = sample->depth == 16 ? 2 : 1;
    for (size_t i = 0; i < count; i++)
        memset(to + i * bytes, channels[i], bytes);
    return count * bytes;
}

static void write_png(const struct png_sample *sample)
{
    FILE *file = create(sample->name);
    struct size size = sample->size;
    uint8_t *bytes = malloc((size_t)size.width * size.height * 8), *end = bytes;
    png_bytep *rows = malloc(size.height * sizeof(*rows));
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (!bytes || !rows || !info || setjmp(png_jmpbuf(png)) != 0)
        fail("write", sample->name);

    for (uint32_t y = 0; y < size.height; y++) {
        rows[y] = end;
        for (uint32_t x = 0; x < size.width; x++)
            end += put_pixel(end, scene(size, x, y), sample);
    }

    png_init_io(png, file);
    png_set_compression_level(png, 3);
    png_set_IHDR(png, info, size.width, size.height, sample->depth, sample->type,
                 sample->interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    if (sample->type == PNG_COLOR_TYPE_PALETTE) {
        png_color palette[256];
        for (int i = 0; i < 1 << sample->depth; i++)
            palette[i] = palette_colour(i, sample->depth);
        png_set_PLTE(png, info, palette, 1 << sample->depth);
    }
    if (sample->transparent) {
        png_color_16 colour = { .red = 128, .green = 128, .blue = 128, .gray = 128 };
        png_set_tRNS(png, info, (uint8_t[]){ 0, 128 }, 2, &colour);
    }
    png_write_info(png, info);
    png_set_packing(png);
    png_write_image(png, rows);
    png_write_end(png, NULL);

    png_destroy_write_struct(&png, &info);
    free(rows);
    free(bytes);
    finish(file, sample->name);
}

/* The beginning of an image of 60000 by 60000 pixels, of which there is no more than this. */
static void write_png_bomb(void)
{
    static const char bomb[] = "\x89PNG\r\n\x1a\n"
                               "\0\0\0\x0dIHDR\0\0\xea\x60\0\0\xea\x60\x08\x02\0\0\0\x0f\xb0\xe2\x15"
                               "\0\0\0\0IDAT\x35\xaf\x06\x1e";
    FILE *file = create("refused_bomb.png");
    fwrite(bomb, 1, sizeof(bomb) - 1, file);
    finish(file, "refused_bomb.png");
}

/* --- JPEG -------------------------------------------------------------------------------------------------- */

struct jpeg_sample {
    const char *name;
    struct size size;
    J_COLOR_SPACE given, stored;
    int channels;
    bool progressive;
};

static const struct jpeg_sample jpeg_samples[] = {
    { "sample2.jpg", { 2048, 1536 }, JCS_RGB, JCS_YCbCr, 3, false },
    { "sample5.jpg", { 1920, 1280 }, JCS_GRAYSCALE, JCS_GRAYSCALE, 1, false },
};

static const struct jpeg_sample odd_jpeg_samples[] = {
    { "progressive.jpg", { 301, 203 }, JCS_RGB, JCS_YCbCr, 3, true },
    { "rgb.jpg", { 301, 203 }, JCS_RGB, JCS_RGB, 3, false },
    { "gray.jpg", { 301, 203 }, JCS_GRAYSCALE, JCS_GRAYSCALE, 1, false },
    { "refused_cmyk.jpg", { 301, 203 }, JCS_CMYK, JCS_YCCK, 4, false },
};

/* libjpeg ends the program on an error, saying why. */
static void write_jpeg(const struct jpeg_sample *sample)
{
    FILE *file = create(sample->name);
    struct size size = sample->size;
    struct jpeg_error_mgr errors;
    struct jpeg_compress_struct jpeg = { .err = jpeg_std_error(&errors) };
    jpeg_create_compress(&jpeg);
    jpeg_stdio_dest(&jpeg, file);
    jpeg.image_width = size.width;
    jpeg.image_height = size.height;
    jpeg.input_components = sample->channels;
    jpeg.in_color_space = sample->given;
    jpeg_set_defaults(&jpeg);
    jpeg_set_colorspace(&jpeg, sample->stored);
    jpeg_set_quality(&jpeg, 90, TRUE);
    if (sample->progressive)
        jpeg_simple_progression(&jpeg);

    uint8_t *row = malloc((size_t)size.width * 4);
    if (!row)
        fail("write", sample->name);
    jpeg_start_compress(&jpeg, TRUE);
    for (uint32_t y = 0; y < size.height; y++) {
        for (uint32_t x = 0; x < size.width; x++) {
            struct pixel pixel = scene(size, x, y);
            memcpy(row + x * (size_t)sample->channels, &pixel, (size_t)sample->channels);
        }
        jpeg_write_scanlines(&jpeg, &row, 1);
    }
    jpeg_finish_compress(&jpeg);
    jpeg_destroy_compress(&jpeg);
    free(row);
    finish(file, sample->name);
}

int main(int argc, char **argv)
{
    bool odd = argc == 3 && strcmp(argv[1], "--odd") == 0;
    if (!odd && argc != 2) {
        fprintf(stderr, "usage: make_samples [--odd] DIR\n");
        return 2;
    }
    if (chdir(argv[argc - 1]) != 0)
        fail("enter", argv[argc - 1]);

    const struct png_sample *pngs = odd ? odd_png_samples : png_samples;
    const struct jpeg_sample *jpegs = odd ? odd_jpeg_samples : jpeg_samples;
    size_t png_count = (odd ? sizeof(odd_png_samples) : sizeof(png_samples)) / sizeof(*pngs);
    size_t jpeg_count = (odd ? sizeof(odd_jpeg_samples) : sizeof(jpeg_samples)) / sizeof(*jpegs);
    for (size_t i = 0; i < png_count; i++)
        write_png(&pngs[i]);
    for (size_t i = 0; i < jpeg_count; i++)
        write_jpeg(&jpegs[i]);
    if (odd)
        write_png_bomb();
}
