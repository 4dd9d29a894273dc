/* A block of a convolutional network in one pass: 3x3 convolution, bias, 2x2 max-pooling and ReLU.
 *
 * Images are float32 in the order image, row, column, channel (channels last). Weights have the
 * order output channel, kernel row, kernel column, input channel. A convolution's output is never
 * stored: the four values of a pooling window stay in registers, for 8 or 16 channels at a time.
 * The position of the largest is stored in a byte. The gradient of a pooling window is the gradient
 * of this one value, so that the backward pass takes a quarter of the operations of a convolution.
 *
 * All sums have a fixed order, which does not depend on the number of threads. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#define THREAD omp_get_thread_num()
#else
#define THREAD 0
#endif

#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define CHUNKS 16  /* parts of a batch, each with its own sums of the weights' gradients */
#define INACTIVE 4 /* added to a position, 0 to 3, if the output is zero by ReLU or dropout */

/* Sizes of a block. Must have the same fields as the class Shape in loader.py. */
typedef struct {
    int64_t images, height, width, in_channels, out_channels, stride, padding, relu;
} Shape;

/* Sizes that follow from a Shape. A row of the input includes its padding. */
typedef struct {
    int64_t padded_height, padded_width, row, padded_size; /* row and size in floats */
    int64_t out_height, out_width, kernel_row, kernel_size; /* kernel: floats of one output channel */
} Sizes;

static Sizes sizes_of(const Shape *s) {
    Sizes z;
    z.padded_height = s->height + 2 * s->padding;
    z.padded_width = s->width + 2 * s->padding;
    z.row = z.padded_width * s->in_channels;
    z.padded_size = z.padded_height * z.row;
    z.out_height = ((z.padded_height - 3) / s->stride + 1) / 2;
    z.out_width = ((z.padded_width - 3) / s->stride + 1) / 2;
    z.kernel_row = 3 * s->in_channels;
    z.kernel_size = 3 * z.kernel_row;
    return z;
}

/* Copy an image into the middle of `padded`, whose border is zero. */
static void pad(const Shape *s, const Sizes *z, const float *image, float *padded) {
    int64_t row = s->width * s->in_channels;
    memset(padded, 0, z->padded_size * sizeof(float));
    padded += s->padding * (z->row + s->in_channels);
    for (int64_t y = 0; y < s->height; y++)
        memcpy(padded + y * z->row, image + y * row, row * sizeof(float));
}

/* The inverse of `pad`. */
static void unpad(const Shape *s, const Sizes *z, const float *padded, float *image) {
    int64_t row = s->width * s->in_channels;
    padded += s->padding * (z->row + s->in_channels);
    for (int64_t y = 0; y < s->height; y++)
        memcpy(image + y * row, padded + y * z->row, row * sizeof(float));
}

/* Forward ---------------------------------------------------------------------------------------*/

/* Define the functions for vectors of `lanes` output channels. `packed` holds the weights of one
 * such group in the order kernel row, kernel column, input channel, output channel. */
#define DEFINE_FORWARD(lanes)                                                                      \
    typedef float vec##lanes __attribute__((vector_size(4 * lanes)));                              \
    typedef int32_t ints##lanes __attribute__((vector_size(4 * lanes)));                           \
    typedef uint8_t bytes##lanes __attribute__((vector_size(lanes)));                              \
                                                                                                   \
    INLINE vec##lanes select##lanes(ints##lanes mask, vec##lanes a, vec##lanes b) {                \
        return (vec##lanes)((mask & (ints##lanes)a) | (~mask & (ints##lanes)b));                   \
    }                                                                                              \
                                                                                                   \
    /* Compute the outputs of `windows` (1 or 2) pooling windows, for `used` channels. The kernel's   \
     * first pixels are at image[window], the outputs at output[offset[window]]. */                \
    INLINE void windows##lanes(const int windows, const float *const *image, const Sizes *z,       \
                               int64_t in_channels, int64_t stride, int64_t relu,                  \
                               const float *packed, const float *bias, const float *scale,         \
                               int64_t used, const int64_t *offset, float *output,                 \
                               uint8_t *position) {                                                \
        vec##lanes sums[8], b, weights;                                                            \
        memcpy(&b, bias, sizeof b);                                                                \
        for (int i = 0; i < 4 * windows; i++)                                                      \
            sums[i] = b;                                                                           \
        int64_t down = stride * z->row, right = stride * in_channels;                              \
        for (int ky = 0; ky < 3; ky++)                                                             \
            for (int64_t j = 0; j < 3 * in_channels; j++, packed += lanes) {                       \
                memcpy(&weights, packed, sizeof weights);                                          \
                UNROLL for (int i = 0; i < 4 * windows; i++)                                       \
                    sums[i] +=                                                                     \
                        weights * image[i / 4][ky * z->row + j + i / 2 % 2 * down + i % 2 * right];\
            }                                                                                      \
        for (int window = 0; window < windows; window++) {                                         \
            vec##lanes largest = sums[4 * window];                                                 \
            ints##lanes where = {0};                                                               \
            for (int i = 1; i < 4; i++) {                                                          \
                vec##lanes value = sums[4 * window + i];                                           \
                ints##lanes mask = (value > largest) | (value != value); /* NaN, as in torch */    \
                largest = select##lanes(mask, value, largest);                                     \
                where = (mask & i) | (~mask & where);                                              \
            }                                                                                      \
            if (relu) {                                                                            \
                ints##lanes mask = largest <= 0;                                                   \
                largest = (vec##lanes)(~mask & (ints##lanes)largest);                              \
                where |= mask & INACTIVE;                                                          \
            }                                                                                      \
            if (scale) {                                                                           \
                vec##lanes factor = {0};                                                           \
                memcpy(&factor, scale, used * sizeof(float));                                      \
                largest *= factor;                                                                 \
                where |= (factor == 0) & INACTIVE;                                                 \
            }                                                                                      \
            memcpy(output + offset[window], &largest, used * sizeof(float));                       \
            if (position) {                                                                        \
                bytes##lanes bytes = __builtin_convertvector(where, bytes##lanes);                 \
                memcpy(position + offset[window], &bytes, used);                                   \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    INLINE void image##lanes(const float *image, const Sizes *z, int64_t in_channels,              \
                             int64_t stride, int64_t relu, const float *packed,                    \
                             const float *bias, const float *scale, int64_t used,                  \
                             int64_t out_channels, float *output, uint8_t *position) {             \
        const float *start[2];                                                                     \
        int64_t offset[2], waiting = 0;                                                            \
        for (int64_t y = 0; y < z->out_height; y++)                                                \
            for (int64_t x = 0; x < z->out_width; x++) {                                           \
                start[waiting] = image + 2 * y * stride * z->row + 2 * x * stride * in_channels;   \
                offset[waiting] = (y * z->out_width + x) * out_channels;                           \
                waiting = !waiting;                                                                \
                if (!waiting)                                                                      \
                    windows##lanes(2, start, z, in_channels, stride, relu, packed, bias, scale,    \
                                   used, offset, output, position);                                \
            }                                                                                      \
        if (waiting)                                                                               \
            windows##lanes(1, start, z, in_channels, stride, relu, packed, bias, scale, used,      \
                           offset, output, position);                                              \
    }

DEFINE_FORWARD(8)
#ifdef __AVX512F__
DEFINE_FORWARD(16) /* 8 sums of 16 floats fill registers of 512 bits only */
#define MAX_LANES 16
#else
#define MAX_LANES 8
#endif

/* Return the number of channels in the group that starts at `channel`: 16 if more than 8 remain. */
static int64_t group_lanes(const Shape *s, int64_t channel) {
    return MAX_LANES == 16 && s->out_channels - channel > 8 ? 16 : 8;
}

/* Write the weights in groups of channels, and the bias, both with zeros for missing channels. */
static void pack(const Shape *s, const Sizes *z, const float *weights, const float *bias,
                 float *packed, float *packed_bias) {
    for (int64_t channel = 0; channel < s->out_channels;) {
        int64_t lanes = group_lanes(s, channel);
        for (int64_t lane = 0; lane < lanes; lane++) {
            int exists = channel + lane < s->out_channels;
            packed_bias[channel + lane] = exists ? bias[channel + lane] : 0;
            const float *source = weights + (channel + lane) * z->kernel_size;
            for (int64_t j = 0; j < z->kernel_size; j++)
                packed[channel * z->kernel_size + j * lanes + lane] = exists ? source[j] : 0;
        }
        channel += lanes;
    }
}

/* Inlined with constants for the most frequent sizes, so that the compiler unrolls the loops. */
INLINE void forward_image(const Shape *s, const Sizes *z, int64_t in_channels, int64_t stride,
                          int64_t relu, const float *image, const float *packed,
                          const float *bias, const float *scale, float *output,
                          uint8_t *position) {
    for (int64_t channel = 0; channel < s->out_channels;) {
        int64_t lanes = group_lanes(s, channel), rest = s->out_channels - channel;
        const float *weights = packed + channel * z->kernel_size;
        const float *factors = scale ? scale + channel : NULL;
        float *out = output + channel;
        uint8_t *where = position ? position + channel : NULL;
#define IMAGE(lanes, used)                                                                         \
    image##lanes(image, z, in_channels, stride, relu, weights, bias + channel, factors, used,      \
                 s->out_channels, out, where)
#if MAX_LANES == 16
        if (rest >= 16)
            IMAGE(16, 16);
        else if (lanes == 16)
            IMAGE(16, rest);
        else
#endif
            if (rest >= 8)
            IMAGE(8, 8);
        else
            IMAGE(8, rest);
#undef IMAGE
        channel += lanes;
    }
}

static void forward_any(const Shape *s, const Sizes *z, const float *image, const float *packed,
                        const float *bias, const float *scale, float *output,
                        uint8_t *position) {
#define FORWARD(in_channels, stride)                                                               \
    forward_image(s, z, in_channels, stride, s->relu, image, packed, bias, scale, output, position)
    if (s->stride == 2)
        FORWARD(s->in_channels, 2);
    else if (s->in_channels == 1)
        FORWARD(1, 1);
    else if (s->in_channels == 8)
        FORWARD(8, 1);
    else
        FORWARD(s->in_channels, 1);
#undef FORWARD
}

/* Compute the block's output (images, out_height, out_width, out_channels), and the position of
 * each maximum in its window, in row order, as bytes of the same shape; without them if `position`
 * is NULL. The first of equal values is the maximum. `scale` (images, out_channels) multiplies the
 * output, unless it is NULL. Return 0, or -1 without enough memory. */
int conv_block_forward(const Shape *s, const float *input, const float *weights, const float *bias,
                       const float *scale, float *output, uint8_t *position, int threads) {
    Sizes z = sizes_of(s);
    int64_t channels = s->out_channels + MAX_LANES;
    int64_t padded_size = s->padding ? z.padded_size : 0;
    float *packed = malloc((channels * (z.kernel_size + 1) + threads * padded_size) * sizeof(float));
    if (!packed)
        return -1;
    float *packed_bias = packed + channels * z.kernel_size, *padded = packed_bias + channels;
    int64_t out_size = z.out_height * z.out_width * s->out_channels;
    pack(s, &z, weights, bias, packed, packed_bias);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t n = 0; n < s->images; n++) {
        const float *image = input + n * s->height * s->width * s->in_channels;
        if (s->padding) {
            float *copy = padded + THREAD * padded_size;
            pad(s, &z, image, copy);
            image = copy;
        }
        forward_any(s, &z, image, packed, packed_bias, scale ? scale + n * s->out_channels : NULL,
                    output + n * out_size, position ? position + n * out_size : NULL);
    }
    free(packed);
    return 0;
}

/* Backward --------------------------------------------------------------------------------------*/

/* The outputs of one channel that have a gradient: the first pixel of the kernel, and the gradient. */
typedef struct {
    int32_t start;
    float gradient;
} Active;

/* List the active outputs of a channel in row order and return their number. */
static int64_t list_active(const Shape *s, const Sizes *z, const uint8_t *position,
                           const float *grad_output, float scale, Active *active) {
    int64_t count = 0, right = s->stride * s->in_channels, down = s->stride * z->row;
    for (int64_t y = 0; y < z->out_height; y++)
        for (int64_t x = 0; x < z->out_width; x++) {
            int64_t where = *position;
            active[count].start = (2 * y + where / 2) * down + (2 * x + where % 2) * right;
            active[count].gradient = *grad_output * scale;
            count += where < INACTIVE; /* not a branch, which would be unpredictable */
            position += s->out_channels;
            grad_output += s->out_channels;
        }
    return count;
}

/* Add the gradients of `rows` rows of a kernel and of the pixels under them. With constant sizes, a
 * kernel of up to `lanes` channels stays in registers. */
#define DEFINE_BACKWARD(lanes)                                                                     \
    INLINE void backward_rows##lanes(const int64_t in_channels, const int rows, int64_t row_size,  \
                                     const Active *active, int64_t count, const float *image,      \
                                     float *grad_image, const float *kernel, float *grad_kernel) { \
        enum { most = 16 };                                                                        \
        vec##lanes weights[most], sums[most], pixels, gradients;                                   \
        const int parts = 3 * in_channels / lanes;                                                 \
        UNROLL for (int part = 0; part < rows * parts; part++) {                                   \
            memcpy(&weights[part], kernel + part * lanes, sizeof pixels);                          \
            memcpy(&sums[part], grad_kernel + part * lanes, sizeof pixels);                        \
        }                                                                                          \
        for (int64_t a = 0; a < count; a++) {                                                      \
            float factor = active[a].gradient;                                                     \
            UNROLL for (int part = 0; part < rows * parts; part++) {                               \
                int64_t offset = active[a].start + part / parts * row_size + part % parts * lanes; \
                memcpy(&pixels, image + offset, sizeof pixels);                                    \
                sums[part] += factor * pixels;                                                     \
                if (grad_image) {                                                                  \
                    memcpy(&gradients, grad_image + offset, sizeof gradients);                     \
                    gradients += factor * weights[part];                                           \
                    memcpy(grad_image + offset, &gradients, sizeof gradients);                     \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
        UNROLL for (int part = 0; part < rows * parts; part++)                                     \
            memcpy(grad_kernel + part * lanes, &sums[part], sizeof pixels);                        \
    }

DEFINE_BACKWARD(8)
#if MAX_LANES == 16
DEFINE_BACKWARD(16)
#endif

/* The same for any number of channels, with the kernel in memory. */
static void backward_row(int64_t size, const Active *active, int64_t count,
                         const float *restrict image, float *restrict grad_image,
                         const float *restrict kernel, float *restrict grad_kernel) {
    for (int64_t a = 0; a < count; a++) {
        float factor = active[a].gradient;
        const float *pixels = image + active[a].start;
        for (int64_t j = 0; j < size; j++)
            grad_kernel[j] += factor * pixels[j];
        if (grad_image) {
            float *gradients = grad_image + active[a].start;
            for (int64_t j = 0; j < size; j++)
                gradients[j] += factor * kernel[j];
        }
    }
}

/* Add the gradients of one image: of its pixels to `grad_image` (unless it is NULL), of weights and
 * bias to `grad_weights` and `grad_bias`. `active` has room for an entry per output pixel. */
static void backward_image(const Shape *s, const Sizes *z, const float *image,
                           const float *weights, const uint8_t *position,
                           const float *grad_output, const float *scale, float *grad_image,
                           float *grad_weights, float *grad_bias, Active *active) {
    for (int64_t channel = 0; channel < s->out_channels; channel++) {
        float factor = scale ? scale[channel] : 1;
        int64_t count = factor == 0 ? 0
                                    : list_active(s, z, position + channel, grad_output + channel,
                                                  factor, active);
        for (int64_t a = 0; a < count; a++)
            grad_bias[channel] += active[a].gradient;
        const float *kernel = weights + channel * z->kernel_size;
        float *grad_kernel = grad_weights + channel * z->kernel_size;
#define ROWS(lanes, in_channels, rows)                                                             \
    for (int ky = 0; ky < 3; ky += rows)                                                           \
    backward_rows##lanes(in_channels, rows, z->row, active, count, image + ky * z->row,            \
                         grad_image ? grad_image + ky * z->row : NULL,                             \
                         kernel + ky * z->kernel_row, grad_kernel + ky * z->kernel_row)
        if (s->in_channels == 8)
            ROWS(8, 8, 3);
#if MAX_LANES == 16
        else if (s->in_channels == 16)
            ROWS(16, 16, 3);
        else if (s->in_channels == 32)
            ROWS(16, 32, 1);
#endif
        else
            for (int ky = 0; ky < 3; ky++)
                backward_row(z->kernel_row, active, count, image + ky * z->row,
                             grad_image ? grad_image + ky * z->row : NULL,
                             kernel + ky * z->kernel_row, grad_kernel + ky * z->kernel_row);
#undef ROWS
    }
}

/* The same for images of one channel whose own gradient is not needed, and for the `used` output
 * channels from `channel` on. They are the lanes of a vector, since a kernel's row has only three
 * weights. */
INLINE void backward_gray_group(const Shape *s, const Sizes *z, const int stride, int64_t channel,
                                const int64_t used, const float *image, const uint8_t *position,
                                const float *grad_output, const float *scale, float *grad_weights,
                                float *grad_bias) {
    vec8 sums[9] = {0}, bias = {0}, factor = {0};
    if (scale)
        memcpy(&factor, scale + channel, used * sizeof(float));
    else
        factor += 1;
    for (int64_t y = 0, k = channel; y < z->out_height; y++)
        for (int64_t x = 0; x < z->out_width; x++, k += s->out_channels) {
            const float *start = image + 2 * y * stride * z->row + 2 * x * stride;
            vec8 gradient = {0}, part[4];
            int32_t lanes[8] = {0};
            ints8 where;
            memcpy(&gradient, grad_output + k, used * sizeof(float));
            for (int64_t lane = 0; lane < used; lane++)
                lanes[lane] = position[k + lane];
            memcpy(&where, lanes, sizeof where);
            gradient *= factor;
            bias += (vec8)((where < INACTIVE) & (ints8)gradient);
            for (int p = 0; p < 4; p++)
                part[p] = (vec8)((where == p) & (ints8)gradient);
            UNROLL for (int row = 0; row < 3 + stride; row++)
            UNROLL for (int column = 0; column < 3 + stride; column++) {
                float pixel = start[row * z->row + column];
                UNROLL for (int p = 0; p < 4; p++) {
                    int ky = row - p / 2 * stride, kx = column - p % 2 * stride;
                    if (0 <= ky && ky < 3 && 0 <= kx && kx < 3)
                        sums[3 * ky + kx] += part[p] * pixel;
                }
            }
        }
    float values[10][8]; /* a copy: the sums have constant indices and stay in registers */
    memcpy(values[9], &bias, sizeof bias);
    UNROLL for (int tap = 0; tap < 9; tap++) memcpy(values[tap], &sums[tap], sizeof bias);
    for (int64_t lane = 0; lane < used; lane++) {
        grad_bias[channel + lane] += values[9][lane];
        for (int tap = 0; tap < 9; tap++)
            grad_weights[(channel + lane) * 9 + tap] += values[tap][lane];
    }
}

static void backward_gray_image(const Shape *s, const Sizes *z, const float *image,
                                const uint8_t *position, const float *grad_output,
                                const float *scale, float *grad_weights, float *grad_bias) {
#define GROUP(stride, used)                                                                        \
    backward_gray_group(s, z, stride, channel, used, image, position, grad_output, scale,          \
                        grad_weights, grad_bias)
    for (int64_t channel = 0; channel < s->out_channels; channel += 8) {
        int64_t rest = s->out_channels - channel;
        if (s->stride == 1 && rest >= 8)
            GROUP(1, 8);
        else if (s->stride == 1)
            GROUP(1, rest);
        else
            GROUP(2, rest < 8 ? rest : 8);
    }
#undef GROUP
}

/* Compute the gradients of the input (unless `grad_input` is NULL), weights and bias from the
 * gradient of the output and the positions of the forward pass. Return 0, or -1 without enough
 * memory. */
int conv_block_backward(const Shape *s, const float *input, const float *weights,
                        const float *scale, const uint8_t *position, const float *grad_output,
                        float *grad_input, float *grad_weights, float *grad_bias, int threads) {
    Sizes z = sizes_of(s);
    int64_t in_size = s->height * s->width * s->in_channels;
    int64_t out_pixels = z.out_height * z.out_width;
    int64_t weight_count = s->out_channels * z.kernel_size, sums_size = weight_count + s->out_channels;
    int64_t scratch_size = 2 * out_pixels + (s->padding ? 2 * z.padded_size : 0);
    float *sums = malloc((CHUNKS * sums_size + threads * scratch_size) * sizeof(float));
    if (!sums)
        return -1;
    memset(sums, 0, CHUNKS * sums_size * sizeof(float));
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t chunk = 0; chunk < CHUNKS; chunk++) {
        float *chunk_sums = sums + chunk * sums_size;
        Active *active = (Active *)(sums + CHUNKS * sums_size + THREAD * scratch_size);
        float *padded = (float *)(active + out_pixels), *grad_padded = padded + z.padded_size;
        int64_t end = s->images * (chunk + 1) / CHUNKS;
        for (int64_t n = s->images * chunk / CHUNKS; n < end; n++) {
            const float *image = input + n * in_size;
            float *grad_image = grad_input ? grad_input + n * in_size : NULL, *target = grad_image;
            if (s->padding) {
                pad(s, &z, image, padded);
                image = padded;
                target = grad_input ? grad_padded : NULL;
            }
            if (target)
                memset(target, 0, z.padded_size * sizeof(float));
            const uint8_t *where = position + n * out_pixels * s->out_channels;
            const float *gradient = grad_output + n * out_pixels * s->out_channels;
            const float *factors = scale ? scale + n * s->out_channels : NULL;
            float *bias_sums = chunk_sums + weight_count;
            if (s->in_channels == 1 && !target)
                backward_gray_image(s, &z, image, where, gradient, factors, chunk_sums, bias_sums);
            else
                backward_image(s, &z, image, weights, where, gradient, factors, target, chunk_sums,
                               bias_sums, active);
            if (target != grad_image)
                unpad(s, &z, target, grad_image);
        }
    }
#pragma omp parallel for num_threads(threads) schedule(static) if (weight_count > 4096)
    for (int64_t i = 0; i < sums_size; i++) {
        float sum = 0;
        for (int64_t chunk = 0; chunk < CHUNKS; chunk++)
            sum += sums[chunk * sums_size + i];
        if (i < weight_count)
            grad_weights[i] = sum;
        else
            grad_bias[i - weight_count] = sum;
    }
    free(sums);
    return 0;
}
