// Cross-entropy and distillation on a chunk of logits [rows, vocabulary]. A block a row.

// ln(sum of e^l); NaN if one is NaN.
__device__ inline float log_sum_exp(const float* row, size_t vocabulary, float scale) {
    float largest = negative_infinity();
    for (size_t i = threadIdx.x; i < vocabulary; i += THREADS) largest = larger(row[i] * scale, largest);
    largest = block_max(largest);
    float sum = 0.0f;
    for (size_t i = threadIdx.x; i < vocabulary; i += THREADS) sum += expf(row[i] * scale - largest);
    return largest + logf(block_sum(sum));
}

// lse[row], and the logit of the row's target.
EDKM_KERNEL edkm_cross_entropy_forward(
    const float* logits, const unsigned int* targets, float* lse, float* target_logit, size_t rows, size_t vocabulary
) {
    for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
        const float* l = logits + row * vocabulary;
        float found = log_sum_exp(l, vocabulary, 1.0f);
        if (threadIdx.x == 0) {
            lse[row] = found;
            target_logit[row] = l[targets[row]];
        }
    }
}

// out[i] = log softmax(logits[rows_of[i]])[targets[i]]. A block a target.
EDKM_KERNEL edkm_log_likelihoods(
    const float* logits, const unsigned int* rows_of, const unsigned int* targets, float* out, size_t count, size_t vocabulary
) {
    for (size_t i = blockIdx.x; i < count; i += gridDim.x) {
        const float* l = logits + rows_of[i] * vocabulary;
        float found = log_sum_exp(l, vocabulary, 1.0f);
        if (threadIdx.x == 0) out[i] = l[targets[i]] - found;
    }
}

// Logits become their gradients, in place: weight (softmax - one at the target), weight = scale grad_loss weights[row].
EDKM_KERNEL edkm_cross_entropy_backward(
    float* logits, const unsigned int* targets, const float* weights, const float* lse, const float* grad_loss, float scale, size_t rows,
    size_t vocabulary
) {
    for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
        float* l = logits + row * vocabulary;
        float weight = scale * grad_loss[0] * weights[row];
        for (size_t i = threadIdx.x; i < vocabulary; i += THREADS) {
            l[i] = weight * expf(l[i] - lse[row]) - (i == targets[row] ? weight : 0.0f);
        }
    }
}

// found[part, row]: lse of student and of teacher, KL(teacher || student), -log softmax(student)[target] and -log softmax(teacher)[target], with logits
// multiplied by scale (one over the temperature).
EDKM_KERNEL edkm_distillation_forward(
    const float* student, const float* teacher, const unsigned int* targets, float scale, float* found, size_t rows,
    size_t vocabulary
) {
    for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
        const float* s = student + row * vocabulary;
        const float* t = teacher + row * vocabulary;
        float of_student = log_sum_exp(s, vocabulary, scale), of_teacher = log_sum_exp(t, vocabulary, scale);
        // KL = sum of p (t - s) - lse_t + lse_s; in f64, since the terms cancel where the two agree
        double sum = 0.0;
        for (size_t i = threadIdx.x; i < vocabulary; i += THREADS) {
            sum += (double)(expf(t[i] * scale - of_teacher)) * ((double)(t[i] * scale) - (double)(s[i] * scale));
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) {
            found[row] = of_student;
            found[rows + row] = of_teacher;
            found[2 * rows + row] = (float)(sum - (double)of_teacher + (double)of_student);
            found[3 * rows + row] = (float)((double)of_student - (double)(s[targets[row]] * scale));
            found[4 * rows + row] = (float)((double)of_teacher - (double)(t[targets[row]] * scale));
        }
    }
}

// The student's logits become their gradients, in place: weight (softmax of student - share softmax of teacher - (1 - share) at the target),
// weight = factor grad_loss weights[row].
EDKM_KERNEL edkm_distillation_backward(
    float* student, const float* teacher, const unsigned int* targets, float scale, float share, const float* student_lse,
    const float* teacher_lse, const float* weights, const float* grad_loss, float factor, size_t rows, size_t vocabulary
) {
    for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
        float* s = student + row * vocabulary;
        const float* t = teacher + row * vocabulary;
        float weight = factor * grad_loss[0] * weights[row];
        for (size_t i = threadIdx.x; i < vocabulary; i += THREADS) {
            float grad = expf(s[i] * scale - student_lse[row]) - share * expf(t[i] * scale - teacher_lse[row]);
            s[i] = weight * grad - (i == targets[row] ? weight * (1.0f - share) : 0.0f);
        }
    }
}
