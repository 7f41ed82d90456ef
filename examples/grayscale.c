/* SPDX-License-Identifier: MIT */
/*
 * grayscale [IMAGE...]: converts every image to gray, each in a process of its own, into processed_NAME beside it.
 * Without arguments it converts the sample images. A file that cannot be read, or that crashes its decoder, costs
 * that file only.
 *
 * PNG: 8 bits of RGB, palettes and gray of up to 8 bits; alpha and transparency are dropped. JPEG: colour and gray.
 * Refused: 16 bits per channel, CMYK, images damaged anywhere, more pixels than PIXELS_MAX.
 */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <jpeglib.h>
#include <png.h>
#include <tandem.h>

enum { PIXELS_MAX = 178956970, JPEG_QUALITY = 75 }; /* both as in Pillow */

struct image {
    const char *path;
    FILE *file; /* the input, then the output */
    size_t width, height;
    uint32_t *pixels; /* a row of them, or all rows of an interlaced PNG */
    uint8_t *gray;    /* all rows */
    bool is_png;

    png_structp png;
    png_infop png_info;
    struct jpeg_decompress_struct decoder;
    struct jpeg_compress_struct encoder;
    struct jpeg_error_mgr jpeg_errors;

    jmp_buf failed;
    char reason[TD_MESSAGE_MAX];
};

/* The decoders write the bytes red, green, blue and one that does not count. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "red is expected in the low byte of a pixel");

/* The rule of Pillow's convert("L"), in whole numbers. The weights add up to 65536, so that gray stays as it is. */
static void convert_row(uint8_t *restrict gray, const uint32_t *restrict pixels, size_t width)
{
    for (size_t i = 0; i < width; i++) {
        uint32_t red = pixels[i] & 255, green = pixels[i] >> 8 & 255, blue = pixels[i] >> 16 & 255;
        gray[i] = (uint8_t)((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16);
    }
}

/* Leaves the conversion: goes back to convert(). */
_Noreturn TD_PRINTF(2, 3) static void fail(struct image *image, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(image->reason, sizeof(image->reason), format, arguments);
    va_end(arguments);
    longjmp(image->failed, 1);
}

static void allocate(struct image *image, size_t width, size_t height, size_t buffered_rows)
{
    if (height == 0 || width > PIXELS_MAX / height)
        fail(image, "%zu x %zu pixels are too many", width, height);
    image->width = width;
    image->height = height;
    image->pixels = malloc(buffered_rows * width * sizeof(*image->pixels));
    image->gray = malloc(width * height);
    if (!image->pixels || !image->gray)
        fail(image, "out of memory for %zu x %zu pixels", width, height);
}

/* --- PNG --------------------------------------------------------------------------------------------------- */

static void png_failed(png_structp png, const char *message)
{
    fail(png_get_error_ptr(png), "%s", message);
}

static void png_warned(png_structp png, const char *message)
{
    (void)png, (void)message; /* about metadata; damaged pixels are an error */
}

static void png_wants_data(png_structp png, uint8_t *data, size_t size)
{
    struct image *image = png_get_io_ptr(png);
    if (fread(data, 1, size, image->file) != size)
        fail(image, "%s", ferror(image->file) ? strerror(errno) : "the file ends too early");
}

static void read_png(struct image *image)
{
    image->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, image, png_failed, png_warned);
    image->png_info = image->png ? png_create_info_struct(image->png) : NULL;
    if (!image->png_info)
        fail(image, "out of memory");
    png_structp png = image->png;
    png_set_read_fn(png, image, png_wants_data);
    png_read_info(png, image->png_info);
    if (png_get_bit_depth(png, image->png_info) > 8)
        fail(image, "16 bits per channel are not supported");

    png_set_expand(png); /* whatever it is, to 4 bytes per pixel */
    png_set_gray_to_rgb(png);
    png_set_filler(png, 0, PNG_FILLER_AFTER);
    int passes = png_set_interlace_handling(png);
    size_t width = png_get_image_width(png, image->png_info);
    size_t height = png_get_image_height(png, image->png_info);
    size_t buffered_rows = passes > 1 ? height : 1;
    allocate(image, width, height, buffered_rows);
    png_read_update_info(png, image->png_info);

    for (int pass = 1; pass <= passes; pass++) {
        for (size_t y = 0; y < height; y++) {
            uint32_t *row = image->pixels + y % buffered_rows * width;
            png_read_row(png, (uint8_t *)row, NULL);
            if (pass == passes)
                convert_row(image->gray + y * width, row, width);
        }
    }
    png_read_end(png, NULL); /* sees to it that nothing is missing */
}

static void write_png(struct image *image)
{
    png_image png = {
        .version = PNG_IMAGE_VERSION,
        .width = (uint32_t)image->width,
        .height = (uint32_t)image->height,
        .format = PNG_FORMAT_GRAY,
    };
    if (!png_image_write_to_stdio(&png, image->file, 0, image->gray, 0, NULL))
        fail(image, "cannot write the result: %s", png.message);
}

/* --- JPEG -------------------------------------------------------------------------------------------------- */

static void jpeg_failed(j_common_ptr jpeg)
{
    char message[JMSG_LENGTH_MAX];
    jpeg->err->format_message(jpeg, message);
    fail(jpeg->client_data, "%s", message);
}

static void jpeg_said(j_common_ptr jpeg, int level)
{
    if (level < 0) /* a warning: the file is damaged, a part of the image would be made up */
        jpeg_failed(jpeg);
}

static struct jpeg_error_mgr *jpeg_errors(struct image *image)
{
    jpeg_std_error(&image->jpeg_errors);
    image->jpeg_errors.error_exit = jpeg_failed;
    image->jpeg_errors.emit_message = jpeg_said;
    return &image->jpeg_errors;
}

static void read_jpeg(struct image *image)
{
    struct jpeg_decompress_struct *jpeg = &image->decoder;
    jpeg->err = jpeg_errors(image);
    jpeg->client_data = image;
    jpeg_create_decompress(jpeg);
    jpeg_stdio_src(jpeg, image->file);
    jpeg_read_header(jpeg, TRUE);
    if (jpeg->num_components == 4)
        fail(image, "CMYK colours are not supported");

    jpeg->out_color_space = JCS_EXT_RGBX;
    allocate(image, jpeg->image_width, jpeg->image_height, 1);
    jpeg_start_decompress(jpeg);
    while (jpeg->output_scanline < jpeg->output_height) {
        uint8_t *row = (uint8_t *)image->pixels, *gray = image->gray + jpeg->output_scanline * image->width;
        jpeg_read_scanlines(jpeg, &row, 1);
        convert_row(gray, image->pixels, image->width);
    }
    jpeg_finish_decompress(jpeg);
}

static void write_jpeg(struct image *image)
{
    struct jpeg_compress_struct *jpeg = &image->encoder;
    jpeg->err = jpeg_errors(image);
    jpeg->client_data = image;
    jpeg_create_compress(jpeg);
    jpeg_stdio_dest(jpeg, image->file);
    jpeg->image_width = (JDIMENSION)image->width;
    jpeg->image_height = (JDIMENSION)image->height;
    jpeg->input_components = 1;
    jpeg->in_color_space = JCS_GRAYSCALE;
    jpeg_set_defaults(jpeg);
    jpeg_set_quality(jpeg, JPEG_QUALITY, TRUE);
    jpeg_start_compress(jpeg, TRUE);
    while (jpeg->next_scanline < jpeg->image_height) {
        uint8_t *row = image->gray + jpeg->next_scanline * image->width;
        jpeg_write_scanlines(jpeg, &row, 1);
    }
    jpeg_finish_compress(jpeg);
}

/* --- one image --------------------------------------------------------------------------------------------- */

/* "dir/photo.png" gives "dir/", prefix, "photo.png", suffix. False if that is too long. */
static bool path_beside(char to[PATH_MAX], const char *path, const char *prefix, const char *suffix)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    return snprintf(to, PATH_MAX, "%.*s%s%s%s", (int)(name - path), path, prefix, name, suffix) < PATH_MAX;
}

/* Where a process writes to until all is well. The parent knows it too, for a process that cannot tidy up. */
static bool temporary_path(char to[PATH_MAX], const char *path, pid_t pid)
{
    char suffix[32];
    snprintf(suffix, sizeof(suffix), ".%ld.tmp", (long)pid);
    return path_beside(to, path, ".processed_", suffix);
}

static void read_image(struct image *image)
{
    image->file = fopen(image->path, "rb");
    if (!image->file)
        fail(image, "%s", strerror(errno));
    int first = ungetc(getc(image->file), image->file); /* the decoders check the rest of the signature */
    if (first == EOF)
        fail(image, "%s", ferror(image->file) ? strerror(errno) : "the file is empty");
    image->is_png = first == 0x89;
    if (image->is_png)
        read_png(image);
    else if (first == 0xff)
        read_jpeg(image);
    else
        fail(image, "neither PNG nor JPEG");
    fclose(image->file);
    image->file = NULL;
}

static void write_image(struct image *image)
{
    char temporary[PATH_MAX], output[PATH_MAX];
    if (!temporary_path(temporary, image->path, getpid()) || !path_beside(output, image->path, "processed_", ""))
        fail(image, "cannot write the result: %s", strerror(ENAMETOOLONG));
    image->file = fopen(temporary, "wbx");
    if (!image->file)
        fail(image, "cannot write the result: %s", strerror(errno));
    if (image->is_png)
        write_png(image);
    else
        write_jpeg(image);
    FILE *file = image->file;
    image->file = NULL;
    if (fclose(file) != 0 || rename(temporary, output) != 0)
        fail(image, "cannot write the result: %s", strerror(errno));
}

static bool convert(struct image *image)
{
    if (setjmp(image->failed) != 0)
        return false;
    read_image(image);
    write_image(image);
    return true;
}

static int process_image(td_call *call)
{
    struct image image = { .path = td_arg_str(call) };
    bool converted = convert(&image);

    png_destroy_read_struct(&image.png, &image.png_info, NULL);
    jpeg_destroy_decompress(&image.decoder);
    jpeg_destroy_compress(&image.encoder);
    free(image.pixels);
    free(image.gray);
    if (image.file)
        fclose(image.file);

    if (!converted)
        return td_fail(call, 1, "%s", image.reason);
    printf("Processed %s\n", image.path);
    return 0;
}

/* --- all images -------------------------------------------------------------------------------------------- */

/* Returns how many could not be converted. */
static int process_images(int count, char **paths)
{
    td_worker **processes = calloc((size_t)count, sizeof(*processes));
    if (!processes) {
        fprintf(stderr, "cannot convert %d images: out of memory\n", count);
        return count;
    }

    for (int i = 0; i < count; i++) {
        processes[i] = td_process(.target = process_image, .args = TD_STR(paths[i]));
        if (td_start(processes[i]) < 0)
            fprintf(stderr, "cannot convert '%s': %s\n", paths[i], td_last_message());
    }

    int failed = 0;
    for (int i = 0; i < count; i++) {
        bool ended = td_join(processes[i]) == 0;
        td_state outcome = td_outcome(processes[i]);
        if (ended && outcome != TD_RETURNED) {
            const char *reason = outcome == TD_FAILED ? td_message(processes[i]) : td_describe(processes[i]);
            fprintf(stderr, "cannot convert '%s': %s\n", paths[i], reason);
            char temporary[PATH_MAX];
            if (temporary_path(temporary, paths[i], td_pid(processes[i])))
                unlink(temporary);
        }
        failed += outcome != TD_RETURNED;
        td_free(processes[i]);
    }
    free(processes);
    return failed;
}

/* The samples lie beside this program, which the build has made them with. */
static int process_samples(void)
{
    static const char *const names[] = { "sample1.png", "sample2.jpg", "sample3.png", "sample4.png", "sample5.jpg" };
    enum { COUNT = sizeof(names) / sizeof(names[0]) };
    static char program[PATH_MAX], paths[COUNT][PATH_MAX + 32];
    char *list[COUNT];

    ssize_t length = readlink("/proc/self/exe", program, sizeof(program) - 1);
    char *slash = length > 0 ? strrchr(program, '/') : NULL;
    if (!slash) {
        fprintf(stderr, "cannot find the samples: /proc/self/exe: %s\n", strerror(errno));
        return 1;
    }
    *slash = '\0';
    for (int i = 0; i < COUNT; i++) {
        snprintf(paths[i], sizeof(paths[i]), "%s/samples/%s", program, names[i]);
        list[i] = paths[i];
    }
    return process_images(COUNT, list);
}

int main(int argc, char **argv)
{
    td_init();
    return (argc > 1 ? process_images(argc - 1, argv + 1) : process_samples()) > 0;
}
