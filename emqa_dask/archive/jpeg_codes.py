"""The Huffman codes of a JPEG's scans, followed by numba without decoding pixels: where they break (ITU-T T.81)."""

import numba
import numpy as np

from emqa_dask.backend import use_wide_vectors

use_wide_vectors()
WHOLE, SHORT, INVALID, OVERFLOW, SURPLUS, NO_RESTART, PADDING, RANGE = range(8)
_MARGIN = 1024  # bytes behind an interval; a block has under 64 codes of at most 31 bits


@numba.njit(nogil=True, cache=True)
def find_marker(data, start):
    """Where the next marker (0xFF and a code) from `start` on begins, restart markers left out; len(data) for none."""
    k = start
    while k + 1 < data.size:
        if data[k] == 0xFF and data[k + 1] != 0 and data[k + 1] != 0xFF and not 0xD0 <= data[k + 1] <= 0xD7:
            return k
        k += 1
    return data.size


@numba.njit(nogil=True, cache=True)
def _copy_interval(data, at, end, out):
    """Copy one interval without its stuffed zeros -> (bytes of it, where the next begins, code of its marker or -1)."""
    n = 0
    while at < end:
        byte = data[at]
        at += 1
        if byte == 0xFF:
            while at < end and data[at] == 0xFF:  # fill bytes
                at += 1
            code = data[at] if at < end else 0
            at += 1
            if code:
                out[n : n + _MARGIN] = 0xFF
                return n, at, np.int64(code)
        out[n] = byte
        n += 1
    out[n : n + _MARGIN] = 0xFF
    return n, end, np.int64(-1)


@numba.njit(nogil=True, cache=True, inline="always")
def _peek_bits(bits, position):
    """The 16 bits from bit `position` on."""
    k = position >> 3
    word = np.int64(bits[k]) << 16 | np.int64(bits[k + 1]) << 8 | np.int64(bits[k + 2])
    return word >> (8 - (position & 7)) & 0xFFFF


@numba.njit(nogil=True, cache=True)
def _decode_dc(bits, position, lookup):
    """-> (position behind the code, difference to the value before); -1 for bits that are no code."""
    entry = np.int64(lookup[_peek_bits(bits, position)])
    size = entry & 0xFF
    if entry == 0 or size > 15:
        return np.int64(-1), np.int64(0)
    position += entry >> 8
    if size == 0:
        return position, np.int64(0)
    value = _peek_bits(bits, position) >> (16 - size)
    if not value >> (size - 1):
        value -= (1 << size) - 1
    return position + size, value


@numba.njit(nogil=True, cache=True)
def _decode_ac(bits, position, lookup, first, final, run, mask):
    """One block's coefficients as they first come -> (position or minus what is wrong, blocks to leave out, mask)."""
    k = max(first, 1)
    while k <= final:
        entry = np.int64(lookup[_peek_bits(bits, position)])
        if entry == 0:
            return np.int64(-INVALID), run, mask
        position += entry >> 8
        zeros = entry >> 4 & 15
        size = entry & 15
        if size:
            k += zeros
            if k > final:
                return np.int64(-OVERFLOW), run, mask
            position += size
            mask |= np.uint64(1) << np.uint64(k)
            k += 1
        elif zeros == 15:
            k += 16
            if k > final + 1:
                return np.int64(-OVERFLOW), run, mask
        else:
            run = np.int64((1 << zeros) - 1)
            if zeros:
                run += _peek_bits(bits, position) >> (16 - zeros)
            return position + zeros, run, mask
    return position, run, mask


@numba.njit(nogil=True, cache=True)
def _refine_ac(bits, position, lookup, first, final, run, mask):
    """One block's coefficients made finer by a bit, and those that become non-zero with it; as _ac()."""
    k = first
    one = np.uint64(1)
    while run == 0 and k <= final:
        entry = np.int64(lookup[_peek_bits(bits, position)])
        zeros = entry >> 4 & 15
        size = entry & 15
        if entry == 0 or size > 1:
            return np.int64(-INVALID), run, mask
        position += (entry >> 8) + size
        if size == 0 and zeros < 15:
            run = np.int64(1 << zeros)
            if zeros:
                run += _peek_bits(bits, position) >> (16 - zeros)
            position += zeros
            break
        while k <= final:
            if mask >> np.uint64(k) & one:
                position += 1
            elif zeros == 0:
                break
            else:
                zeros -= 1
            k += 1
        if size:
            if k > final:
                return np.int64(-OVERFLOW), run, mask
            mask |= one << np.uint64(k)
        k += 1
    if run > 0:
        while k <= final:
            position += np.int64(mask >> np.uint64(k) & one)
            k += 1
        run -= 1
    return position, run, mask


@numba.njit(nogil=True, cache=True)
def _check_end(bits, position, n_bytes):
    """What is left behind the last code of an interval: fewer than 8 bits, all ones (or zeros, as some write)."""
    left = 8 * n_bytes - position
    if left < 0:
        return SHORT
    if left >= 8:
        return SURPLUS
    padding = np.int64(bits[n_bytes - 1]) & ((1 << left) - 1) if left else 0
    return WHOLE if padding == 0 or padding == (1 << left) - 1 else PADDING


@numba.njit(nogil=True, cache=True)
def follow_scan(data, start, end, lookups, parts, grid, interval, bands, is_progressive, masks, first_blocks):
    """Follow the codes of one scan, data[start:end] -> (what is wrong or WHOLE, units followed).

    lookups: (8, 65536) uint16, four tables of DC codes and four of AC codes: the code's length times 256, plus its
    symbol. parts: (n, 6) int64, of each component blocks across and down a unit, its DC and AC table, blocks in a row
    of it, largest DC value. grid: units down and across. bands: first and last coefficient, bits before and after.
    masks: which coefficients of each block are not zero yet (progressive), a component's blocks from first_blocks on.
    """
    first, final, before, after = bands
    last = np.zeros(len(parts), np.int64)
    n_units = grid[0] * grid[1]
    bits = np.empty(end - start + _MARGIN, np.uint8)
    at = start
    mask = np.uint64(0)
    for begin in range(0, n_units, interval if interval else n_units):
        n_bytes, at, marker = _copy_interval(data, at, end, bits)
        position = np.int64(0)
        run = np.int64(0)
        last[:] = 0
        stop = min(begin + interval, n_units) if interval else n_units
        for unit in range(begin, stop):
            for c in range(len(parts)):
                across, down, dc_table, ac_table, row_blocks, limit = parts[c]
                for k in range(across * down):
                    block = 0
                    if is_progressive:
                        y = unit // grid[1] * down + k // across
                        block = first_blocks[c] + y * row_blocks + unit % grid[1] * across + k % across
                        mask = masks[block]
                    if first == 0 and before:
                        position += 1
                    elif first == 0:
                        position, step = _decode_dc(bits, position, lookups[dc_table])
                        if position < 0:
                            return INVALID, unit
                        last[c] += step
                        if abs(last[c] << after) > limit:
                            return RANGE, unit
                    if final > 0:
                        if run > 0 and not before:
                            run -= 1
                        elif before and is_progressive:
                            position, run, mask = _refine_ac(
                                bits, position, lookups[4 + ac_table], first, final, run, mask
                            )
                        else:
                            position, run, mask = _decode_ac(
                                bits, position, lookups[4 + ac_table], first, final, run, mask
                            )
                        if position < 0:
                            return -position, unit
                        if is_progressive:
                            masks[block] = mask
                        elif run > 0:
                            return INVALID, unit
                    if position > 8 * n_bytes:
                        return SHORT, unit
        found = _check_end(bits, position, n_bytes)
        if found != WHOLE:
            return found, stop
        if stop < n_units and marker != 0xD0 + begin // interval % 8:
            return NO_RESTART, stop
    return (SURPLUS if at < end else WHOLE), n_units
