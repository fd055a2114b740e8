// C struct layouts as data. A struct is declared once, with the kernel's own field names; the
// declaration yields the offset of every field by the C rules of natural alignment. The same form
// serves wire structs, kernel structs and records in shared memory.
//
//   const fuse_getattr_in = struct("fuse_getattr_in", { getattr_flags: u32, dummy: u32, fh: u64 });
//   fuse_getattr_in.fh        // 8, the offset
//   fuse_getattr_in.sizeof    // 16 (no C field can have this name)

export interface Type {
  readonly name: string;
  readonly size: number;
  readonly align: number;
  /** The fields, if this is a struct. */
  readonly fields?: readonly Field[];
  /** The number of elements, if this is an array. */
  readonly count?: number;
}

export interface Field {
  readonly name: string;
  readonly offset: number;
  readonly type: Type;
}

const scalar = (name: string, size: number): Type => ({ name, size, align: size });

export const u8 = scalar("u8", 1);
export const u16 = scalar("u16", 2);
export const u32 = scalar("u32", 4);
export const i32 = scalar("i32", 4);
export const u64 = scalar("u64", 8);
export const i64 = scalar("i64", 8);
export const f64 = scalar("f64", 8);

export function array(type: Type, count: number): Type {
  return { name: `${type.name}[${count}]`, size: type.size * count, align: type.align, count };
}

export type Layout<Names extends string = string> = { readonly [Name in Names]: number } & {
  readonly sizeof: number;
};

interface Declaration {
  readonly name: string;
  readonly fields: Readonly<Record<string, Type | Layout>>;
  readonly align: number;
  /** Made when it is asked for. */
  type?: Type;
}

/** What each layout was made from. No more is done with it when a thread starts. */
const declarations = new WeakMap<object, Declaration>();

/** Lays out `fields` in order, each at its natural alignment, as a C compiler does. */
export function struct<const Fields extends Record<string, Type | Layout>>(
  name: string,
  fields: Fields,
): Layout<keyof Fields & string> {
  const layout: Record<string, number> = {};
  let offset = 0;
  let align = 1;
  for (const field in fields) {
    const type = fields[field]!;
    const ownAlign = isLayout(type) ? declarations.get(type)!.align : type.align;
    offset = roundUp(offset, ownAlign);
    layout[field] = offset;
    offset += isLayout(type) ? type.sizeof : type.size;
    align = Math.max(align, ownAlign);
  }
  layout["sizeof"] = roundUp(offset, align);
  declarations.set(layout, { name, fields, align });
  return layout as Layout<keyof Fields & string>;
}

/** A layout as a type: for the debug printer and for tests. */
export function typeOf(layout: Layout): Type {
  const declaration = declarations.get(layout);
  if (declaration === undefined) throw new TypeError("not a layout made by struct()");
  const { name, align } = declaration;
  if (declaration.type !== undefined) return declaration.type;
  const fields = Object.entries(declaration.fields).map(([field, type]) => ({
    name: field,
    offset: (layout as Record<string, number>)[field]!,
    type: isLayout(type) ? typeOf(type) : type,
  }));
  return (declaration.type = { name, size: layout.sizeof, align, fields });
}

function isLayout(type: Type | Layout): type is Layout {
  return "sizeof" in type;
}

/** `value` rounded up to a multiple of `multiple`, a power of two; both below 2**31. */
export function roundUp(value: number, multiple: number): number {
  return (value + multiple - 1) & -multiple;
}
