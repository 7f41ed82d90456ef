/* SPDX-License-Identifier: MIT */
/*
 * verify_gray INPUT OUTPUT: is OUTPUT what grayscale must make of INPUT, bit for bit? Shares no code with it: a PNG is
 * unpacked here from its raw samples; of a JPEG the file expected is built and compared byte by byte.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <jpeglib.h>
#include <png.h>

struct picture {
    size_t width, height;
    uint8_t *gray;
};

_Noreturn static void differs(const char *path, const char *how)
{
    fprintf(stderr, "'%s': %s\n", path, how);
    exit(1);
}

static FILE *open_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        differs(path, "cannot be opened");
    return file;
}

static uint8_t *get_memory(size_t size)
{
    uint8_t *memory = malloc(size);
    if (!memory)
        differs("memory", "none left");
    return memory;
}

static uint8_t gray_of(uint8_t red, uint8_t green, uint8_t blue)
{
    return (uint8_t)((19595L * red + 38470L * green + 7471L * blue + 32768L) / 65536L);
}

static int bits_at(const uint8_t *row, size_t x, int depth)
{
    size_t bit = x * (size_t)depth;
    return row[bit / 8] >> (8 - (size_t)depth - bit % 8) & ((1 << depth) - 1);
}

/* A PNG in gray; with `must_be_gray` it must be stored so. */
static struct picture read_png(const char *path, bool must_be_gray)
{
    FILE *file = open_file(path);
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (!info || setjmp(png_jmpbuf(png)) != 0)
        differs(path, "is no good PNG");
    png_init_io(png, file);
    png_read_png(png, info, PNG_TRANSFORM_IDENTITY, NULL);

    int type = png_get_color_type(png, info), depth = png_get_bit_depth(png, info), colours = 0;
    png_colorp palette = NULL;
    if (must_be_gray && (type != PNG_COLOR_TYPE_GRAY || depth != 8))
        differs(path, "is not stored as 8 bits of gray");
    if (type == PNG_COLOR_TYPE_PALETTE)
        png_get_PLTE(png, info, &palette, &colours);

    struct picture picture = { png_get_image_width(png, info), png_get_image_height(png, info), NULL };
    picture.gray = get_memory(picture.width * picture.height);
    uint8_t **rows = png_get_rows(png, info);
    for (size_t y = 0; y < picture.height; y++) {
        for (size_t x = 0; x < picture.width; x++) {
            const uint8_t *row = rows[y];
            uint8_t *gray = &picture.gray[y * picture.width + x];
            if (type == PNG_COLOR_TYPE_GRAY) {
                *gray = (uint8_t)(bits_at(row, x, depth) * 255 / ((1 << depth) - 1));
            } else if (type == PNG_COLOR_TYPE_GRAY_ALPHA) {
                *gray = row[2 * x];
            } else if (palette) {
                png_color colour = palette[bits_at(row, x, depth)];
                *gray = gray_of(colour.red, colour.green, colour.blue);
            } else {
                const uint8_t *pixel = row + x * (type == PNG_COLOR_TYPE_RGB ? 3 : 4);
                *gray = gray_of(pixel[0], pixel[1], pixel[2]);
            }
        }
    }
    png_destroy_read_struct(&png, &info, NULL);
    fclose(file);
    return picture;
}

static bool verify_png(const char *input, const char *output)
{
    struct picture expected = read_png(input, false), got = read_png(output, true);
    bool same = expected.width == got.width && expected.height == got.height &&
                memcmp(expected.gray, got.gray, expected.width * expected.height) == 0;
    free(expected.gray);
    free(got.gray);
    return same;
}

/* libjpeg's own error handler tells and ends the program. */
static struct picture read_jpeg(const char *path)
{
    FILE *file = open_file(path);
    struct jpeg_error_mgr errors;
    struct jpeg_decompress_struct jpeg = { .err = jpeg_std_error(&errors) };
    jpeg_create_decompress(&jpeg);
    jpeg_stdio_src(&jpeg, file);
    jpeg_read_header(&jpeg, TRUE);
    jpeg.out_color_space = JCS_RGB;
    jpeg_start_decompress(&jpeg);

    struct picture picture = { jpeg.output_width, jpeg.output_height, NULL };
    picture.gray = get_memory(picture.width * picture.height);
    uint8_t *row = get_memory(picture.width * 3);
    for (size_t y = 0; y < picture.height; y++) {
        jpeg_read_scanlines(&jpeg, &row, 1);
        for (size_t x = 0; x < picture.width; x++)
            picture.gray[y * picture.width + x] = gray_of(row[3 * x], row[3 * x + 1], row[3 * x + 2]);
    }
    jpeg_finish_decompress(&jpeg);
    jpeg_destroy_decompress(&jpeg);
    free(row);
    fclose(file);
    return picture;
}

static bool verify_jpeg(const char *input, const char *output)
{
    struct picture picture = read_jpeg(input);
    uint8_t *expected = NULL;
    unsigned long size = 0;
    struct jpeg_error_mgr errors;
    struct jpeg_compress_struct jpeg = { .err = jpeg_std_error(&errors) };
    jpeg_create_compress(&jpeg);
    jpeg_mem_dest(&jpeg, &expected, &size);
    jpeg.image_width = (JDIMENSION)picture.width;
    jpeg.image_height = (JDIMENSION)picture.height;
    jpeg.input_components = 1;
    jpeg.in_color_space = JCS_GRAYSCALE;
    jpeg_set_defaults(&jpeg); /* libjpeg's default is Pillow's: quality 75 */
    jpeg_start_compress(&jpeg, TRUE);
    for (size_t y = 0; y < picture.height; y++) {
        uint8_t *row = &picture.gray[y * picture.width];
        jpeg_write_scanlines(&jpeg, &row, 1);
    }
    jpeg_finish_compress(&jpeg);
    jpeg_destroy_compress(&jpeg);

    FILE *file = open_file(output);
    uint8_t *got = get_memory(size + 1);
    bool same = fread(got, 1, size + 1, file) == size && memcmp(got, expected, size) == 0;
    fclose(file);
    free(got);
    free(expected);
    free(picture.gray);
    return same;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: verify_gray INPUT OUTPUT\n");
        return 2;
    }
    FILE *file = open_file(argv[1]);
    bool is_png = getc(file) == 0x89;
    fclose(file);
    if (!(is_png ? verify_png : verify_jpeg)(argv[1], argv[2]))
        differs(argv[2], "is not what it should be");
}
