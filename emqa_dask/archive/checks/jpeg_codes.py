"""Huffman codes of the scans of a JPEG (ITU-T T.81), followed without decoding pixels, to find where they break."""

import numba
import numpy as np

from emqa_dask.backend import use_wide_vectors

use_wide_vectors()
# Kinds of damage of a scan; the texts are in jpeg.py.
WHOLE = 0
SHORT = 1
INVALID = 2
OVERFLOW = 3
SURPLUS = 4
NO_RESTART = 5
PADDING = 6
RANGE = 7
_MARGIN = 1024  # bytes behind an interval; a block has under 64 codes of at most 31 bits


@numba.njit(nogil=True, cache=True)
def find_marker(data, start):
    """Position of the next marker (0xFF and a code) from `start` on, except restart markers; len(data) for none."""
    k = start
    while k + 1 < data.size:
        if data[k] == 0xFF and data[k + 1] != 0 and data[k + 1] != 0xFF and not 0xD0 <= data[k + 1] <= 0xD7:
            return k
        k += 1
    return data.size


@numba.njit(nogil=True, cache=True)
def _copy_interval(data, start, end, out):
    """Copy one interval without its stuffed zeros -> (its bytes, start of the next one, code of its marker or -1)."""
    n = 0
    k = start
    while k < end:
        byte = data[k]
        k += 1
        if byte == 0xFF:
            while k < end and data[k] == 0xFF:  # fill bytes
                k += 1
            code = data[k] if k < end else 0
            k += 1
            if code:
                out[n : n + _MARGIN] = 0xFF
                return n, k, np.int64(code)
        out[n] = byte
        n += 1
    out[n : n + _MARGIN] = 0xFF
    return n, end, np.int64(-1)


@numba.njit(nogil=True, cache=True, inline="always")
def _peek_bits(bits, position):
    """The 16 bits from bit `position` on."""
    k = position >> 3
    bits_24 = np.int64(bits[k]) << 16 | np.int64(bits[k + 1]) << 8 | np.int64(bits[k + 2])
    return bits_24 >> (8 - (position & 7)) & 0xFFFF


@numba.njit(nogil=True, cache=True)
def _decode_dc(bits, position, lookup):
    """-> (position behind the code, difference from the previous value); -1 for bits that are no code."""
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
    """First scan of a block's coefficients -> (position or minus the kind of damage, blocks to skip, mask)."""
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
    """Scan that refines a block's coefficients by one bit -> as _decode_ac()."""
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
    """Kind of damage at the end of an interval, which may have fewer than 8 bits of padding, all ones or all zeros."""
    n_bits = 8 * n_bytes - position
    if n_bits < 0:
        return SHORT
    if n_bits >= 8:
        return SURPLUS
    padding = np.int64(bits[n_bytes - 1]) & ((1 << n_bits) - 1) if n_bits else 0
    return WHOLE if padding == 0 or padding == (1 << n_bits) - 1 else PADDING


@numba.njit(nogil=True, cache=True, inline="always")
def _follow_dc(bits, position, huffman_tables, table, bands, dc_values, c, limit):
    """Follow the DC code of one block of component c -> position or minus the kind of damage."""
    is_refinement = bands[2]
    shift = bands[3]
    if bands[0] > 0:
        return position
    if is_refinement:
        return position + 1
    position, step = _decode_dc(bits, position, huffman_tables[table])
    if position < 0:
        return np.int64(-INVALID)
    dc_values[c] += step
    return np.int64(-RANGE) if abs(dc_values[c] << shift) > limit else position


@numba.njit(nogil=True, cache=True, inline="always")
def _follow_ac(bits, position, huffman_tables, table, bands, run, is_progressive, masks, block):
    """Follow the AC codes of one block -> (position or minus the kind of damage, number of blocks to skip)."""
    first = bands[0]
    final = bands[1]
    is_refinement = bands[2]
    if run > 0 and not is_refinement:
        return position, run - 1
    mask = masks[block] if is_progressive else np.uint64(0)
    if is_refinement and is_progressive:
        position, run, mask = _refine_ac(bits, position, huffman_tables[table], first, final, run, mask)
    else:
        position, run, mask = _decode_ac(bits, position, huffman_tables[table], first, final, run, mask)
    if is_progressive:
        masks[block] = mask
    elif run > 0 and position >= 0:
        position = np.int64(-INVALID)
    return position, run


@numba.njit(nogil=True, cache=True, inline="always")
def _follow_unit(
    bits,
    n_bytes,
    position,
    run,
    unit,
    huffman_tables,
    components,
    n_columns,
    bands,
    is_progressive,
    dc_values,
    masks,
    first_blocks,
):
    """Follow all blocks of one unit -> (position or minus the kind of damage, number of blocks to skip)."""
    for c in range(len(components)):
        n_across = components[c, 0]
        n_down = components[c, 1]
        dc_table = components[c, 2]
        ac_table = components[c, 3]
        row_blocks = components[c, 4]
        limit = components[c, 5]
        for k in range(n_across * n_down):
            block = 0
            if is_progressive:
                row = unit // n_columns * n_down + k // n_across
                block = first_blocks[c] + row * row_blocks + unit % n_columns * n_across + k % n_across
            position = _follow_dc(bits, position, huffman_tables, dc_table, bands, dc_values, c, limit)
            if position >= 0 and bands[1] > 0:
                position, run = _follow_ac(
                    bits, position, huffman_tables, 4 + ac_table, bands, run, is_progressive, masks, block
                )
            if position < 0:
                return position, run
            if position > 8 * n_bytes:
                return np.int64(-SHORT), run
    return position, run


@numba.njit(nogil=True, cache=True)
def follow_scan(
    data, start, end, huffman_tables, components, grid, interval, bands, is_progressive, masks, first_blocks
):
    """Follow the codes of one scan, data[start:end] -> (kind of damage or WHOLE, number of units followed).

    huffman_tables: (8, 65536) uint16, four tables of DC codes and four of AC codes: the code's length times 256, plus
    its symbol. components: (n, 6) int64, of each component the blocks across and down a unit, the DC and the AC table,
    the blocks in a row and the largest DC value. grid: units down and across. bands: first and last coefficient, bits
    before and after. masks: which coefficients of each block are non-zero so far (progressive); the blocks of a
    component start at first_blocks.
    """
    dc_values = np.zeros(len(components), np.int64)
    n_units = grid[0] * grid[1]
    bits = np.empty(end - start + _MARGIN, np.uint8)
    source = start
    for begin in range(0, n_units, interval if interval else n_units):
        n_bytes, source, marker = _copy_interval(data, source, end, bits)
        position = np.int64(0)
        run = np.int64(0)
        dc_values[:] = 0
        stop = min(begin + interval, n_units) if interval else n_units
        for unit in range(begin, stop):
            position, run = _follow_unit(
                bits, n_bytes, position, run, unit, huffman_tables, components, grid[1], bands, is_progressive,
                dc_values, masks, first_blocks,
            )  # fmt: skip
            if position < 0:
                return -position, unit
        damage = _check_end(bits, position, n_bytes)
        if damage != WHOLE:
            return damage, stop
        if stop < n_units and marker != 0xD0 + begin // interval % 8:
            return NO_RESTART, stop
    return (SURPLUS if source < end else WHOLE), n_units
