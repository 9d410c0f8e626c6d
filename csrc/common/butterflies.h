// Fourier transforms of 2, 3, 4, 5 and 8 numbers in registers, with exp(-2 pi i / R), in place.
#pragma once

#include "team.h"

namespace ussfast {

template <int R>
struct Butterfly;

template <>
struct Butterfly<2> {
  USSFAST_HD static void run(Complex (&v)[2]) {
    const Complex a = v[0];
    v[0] = a + v[1];
    v[1] = a - v[1];
  }
};

template <>
struct Butterfly<3> {
  USSFAST_HD static void run(Complex (&v)[3]) {
    constexpr float kSin60 = 0.866025403784438647f;
    const Complex sum = v[1] + v[2], side = times_i(kSin60 * (v[1] - v[2]));
    const Complex middle = v[0] - 0.5f * sum;
    v[0] = v[0] + sum;
    v[1] = middle - side;
    v[2] = middle + side;
  }
};

template <>
struct Butterfly<4> {
  USSFAST_HD static void run(Complex (&v)[4]) {
    const Complex a = v[0] + v[2], b = v[0] - v[2], c = v[1] + v[3], d = times_i(v[1] - v[3]);
    v[0] = a + c;
    v[1] = b - d;
    v[2] = a - c;
    v[3] = b + d;
  }
};

template <>
struct Butterfly<5> {
  USSFAST_HD static void run(Complex (&v)[5]) {
    constexpr float kCos72 = 0.309016994374947424f, kCos144 = -0.809016994374947424f;
    constexpr float kSin72 = 0.951056516295153572f, kSin144 = 0.587785252292473129f;
    const Complex a = v[1] + v[4], b = v[2] + v[3], c = v[1] - v[4], d = v[2] - v[3];
    const Complex near = v[0] + kCos72 * a + kCos144 * b, far = v[0] + kCos144 * a + kCos72 * b;
    const Complex near_side = times_i(kSin72 * c + kSin144 * d), far_side = times_i(kSin144 * c - kSin72 * d);
    v[0] = v[0] + a + b;
    v[1] = near - near_side;
    v[2] = far - far_side;
    v[3] = far + far_side;
    v[4] = near + near_side;
  }
};

template <>
struct Butterfly<8> {
  USSFAST_HD static void run(Complex (&v)[8]) {
    constexpr float kHalf = 0.707106781186547524f;
    Complex even[4] = {v[0], v[2], v[4], v[6]}, odd[4] = {v[1], v[3], v[5], v[7]};
    Butterfly<4>::run(even);
    Butterfly<4>::run(odd);
    odd[1] = kHalf * Complex{odd[1].re + odd[1].im, odd[1].im - odd[1].re};
    odd[2] = {odd[2].im, -odd[2].re};
    odd[3] = kHalf * Complex{odd[3].im - odd[3].re, -odd[3].re - odd[3].im};
    USSFAST_UNROLL
    for (int k = 0; k < 4; ++k) {
      v[k] = even[k] + odd[k];
      v[k + 4] = even[k] - odd[k];
    }
  }
};

}  // namespace ussfast
