"""What the sample shop sells: types of product with their prices and materials, colours, patterns, brands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Bilingual = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ProductType:
    """What is said of a type of product.

    Attributes:
        category: where the shop lists it.
        names: what English titles call it, all in the shop-word table.
        materials: what it may be made of, in the shop-word table.
        price: median of the log-normal price, in euros; spread: deviation of its logarithm.
        uses: ends of the sentence "Made for ...", English and Chinese.
        features: sentences that fit this type, English and Chinese.
    """

    category: str
    names: tuple[str, ...]
    materials: tuple[str, ...]
    price: float
    spread: float
    uses: Bilingual
    features: Bilingual


@dataclass(frozen=True)
class Attributes:
    """What a product of the sample is, before it is drawn and described."""

    product_type: str
    colour: str
    pattern: str
    material: str
    brand: str


def draw_attributes(rng: np.random.Generator) -> Attributes:
    """Draw a product's type, colour, pattern, material and brand."""
    product_type = pick(tuple(TYPES), rng)
    return Attributes(
        product_type=product_type,
        colour=pick(tuple(COLOURS), rng),
        pattern=str(rng.choice(list(PATTERNS), p=list(PATTERNS.values()))),
        material=pick(TYPES[product_type].materials, rng),
        brand=pick(BRANDS, rng),
    )


def pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    """Draw one of some texts."""
    return options[int(rng.integers(len(options)))]


_CLOTH = ("cotton", "linen", "polyester", "organic cotton")

TYPES: Mapping[str, ProductType] = {
    "T-shirt": ProductType(
        "apparel", ("T-shirt", "tee", "tshirt"), _CLOTH, 18, 0.4,
        (("lazy weekends", "周末休闲"), ("the gym", "健身"), ("warm days", "夏日穿着")),
        (
            ("The ribbed crew neck keeps its shape.", "罗纹圆领，不易变形。"),
            ("Pre-washed, so it will not shrink.", "经过预洗，不会缩水。"),
            ("Cut straight and a little long.", "直筒版型，略长。"),
        ),
    ),
    "dress": ProductType(
        "apparel", ("dress", "frock"), ("silk", "cotton", "chiffon", "linen"), 52, 0.5,
        (("garden parties", "花园派对"), ("the office and after", "上班和约会"), ("summer evenings", "夏夜")),
        (
            ("The fitted waist opens into a flared skirt.", "收腰设计，裙摆飘逸。"),
            ("Fully lined, with a hidden zip.", "全衬里，隐形拉链。"),
            ("It falls just below the knee.", "长度刚过膝盖。"),
        ),
    ),
    "trousers": ProductType(
        "apparel", ("trousers", "pants", "slacks"), ("wool", *_CLOTH), 44, 0.4,
        (("long days at the office", "办公室"), ("travelling", "旅行"), ("every day", "日常穿着")),
        (
            ("Two pockets at the sides and one at the back.", "两侧及后方共三个口袋。"),
            ("Straight legs with a pressed crease.", "直筒裤腿，压线笔挺。"),
            ("A little stretch makes them comfortable.", "微弹面料，穿着舒适。"),
        ),
    ),
    "sneakers": ProductType(
        "footwear", ("sneakers", "trainers"), ("leather", "suede", "canvas", "mesh"), 68, 0.45,
        (("city walks", "城市漫步"), ("the gym", "健身"), ("short runs", "短跑")),
        (
            ("A cushioned insole and a sole with grip.", "缓震鞋垫，防滑鞋底。"),
            ("The lining breathes and the laces stay tied.", "透气内里，鞋带不易松。"),
            ("The toe cap is reinforced.", "鞋头加固。"),
        ),
    ),
    "boots": ProductType(
        "footwear", ("boots",), ("leather", "suede", "rubber"), 95, 0.45,
        (("wet streets", "雨天"), ("country walks", "郊游"), ("winter", "冬季")),
        (
            ("A stacked heel and a warm lining.", "叠层鞋跟，保暖内里。"),
            ("The treaded sole holds on wet ground.", "防滑鞋底，雨天不滑。"),
            ("They reach half way up the calf.", "中筒设计。"),
        ),
    ),
    "handbag": ProductType(
        "bags", ("handbag", "hand bag"), ("leather", "faux leather", "suede"), 78, 0.7,
        (("the office", "上班"), ("evenings out", "晚间外出"), ("shopping in town", "逛街")),
        (
            ("A tablet fits, and there is a zip pocket inside.", "可放平板电脑，内有拉链袋。"),
            ("Two handles and a magnetic clasp.", "双提手，磁扣开合。"),
            ("Four metal feet keep the base clean.", "底部四个金属脚钉。"),
        ),
    ),
    "backpack": ProductType(
        "bags", ("backpack", "rucksack", "knapsack"), ("nylon", "canvas", "leather"), 55, 0.45,
        (("school", "上学"), ("day hikes", "短途徒步"), ("weekend trips", "周末出游")),
        (
            ("Padded straps and a sleeve for a laptop.", "加厚肩带，内有电脑隔层。"),
            ("It holds 22 litres.", "容量22升。"),
            ("The front pocket has an organiser.", "前袋分层收纳。"),
        ),
    ),
    "mug": ProductType(
        "kitchen", ("mug", "coffee mug"), ("ceramic", "porcelain", "stoneware"), 11, 0.35,
        (("slow mornings", "悠闲的早晨"), ("the office kitchen", "办公室茶水间"), ("hot chocolate", "热巧克力")),
        (
            ("It holds 350 ml and may go into the dishwasher.", "容量350毫升，可用洗碗机清洗。"),
            ("The big handle stays cool.", "大把手不烫手。"),
            ("The glaze keeps its colour.", "釉色持久。"),
        ),
    ),
    "teapot": ProductType(
        "kitchen", ("teapot",), ("ceramic", "porcelain", "cast iron"), 34, 0.5,
        (("afternoon tea", "下午茶"), ("four cups", "四人饮用"), ("guests", "招待客人")),
        (
            ("It holds 1.2 litres and comes with a strainer.", "容量1.2升，附滤网。"),
            ("The spout does not drip.", "壶嘴不滴水。"),
            ("The lid stays on when you pour.", "倒茶时壶盖不会掉落。"),
        ),
    ),
    "table lamp": ProductType(
        "lighting", ("table lamp", "desk lamp"), ("linen", "silk", "paper"), 48, 0.55,
        (("the bedside", "床头"), ("reading corners", "阅读角"), ("a quiet desk", "书桌")),
        (
            ("It takes one E27 bulb, which is not included.", "使用一个E27灯泡（不含）。"),
            ("It stands 45 cm high, with a switch on the cord.", "高45厘米，线上开关。"),
            ("The shade gives a soft, warm light.", "灯罩光线柔和。"),
        ),
    ),
    "armchair": ProductType(
        "furniture", ("armchair",), ("velvet", "leather", "corduroy"), 320, 0.5,
        (("long evenings with a book", "长夜阅读"), ("the living room", "客厅"), ("waiting rooms", "会客室")),
        (
            ("A deep seat on solid wooden legs.", "深座设计，实木椅腿。"),
            ("It carries up to 130 kg.", "承重130公斤。"),
            ("The cushions are filled with feathers and foam.", "坐垫填充羽毛和海绵。"),
        ),
    ),
    "watch": ProductType(
        "accessories", ("watch", "wristwatch", "timepiece"), ("leather", "silicone", "nylon"), 120, 0.8,
        (("the office", "上班佩戴"), ("sports", "运动"), ("every day", "日常佩戴")),
        (
            ("Quartz movement behind scratch-proof crystal.", "石英机芯，防刮镜面。"),
            ("Water resistant to 50 metres.", "50米防水。"),
            ("The strap is changed without a tool.", "表带可免工具更换。"),
        ),
    ),
    "sunglasses": ProductType(
        "accessories", ("sunglasses",), ("acrylic", "plastic", "metal"), 38, 0.7,
        (("the beach", "海滩"), ("driving", "驾驶"), ("bright days", "晴天")),
        (
            ("The lenses filter all UV light up to 400 nm.", "镜片UV400防护。"),
            ("They come in a hard case.", "附硬质眼镜盒。"),
            ("Light enough to be forgotten.", "轻巧无负担。"),
        ),
    ),
    "umbrella": ProductType(
        "accessories", ("umbrella",), ("polyester", "nylon"), 22, 0.4,
        (("sudden showers", "突来的阵雨"), ("two", "双人使用"), ("the way to work", "上班路上")),
        (
            ("Eight ribs stand up to the wind.", "八骨抗风。"),
            ("It opens to 98 cm.", "撑开直径98厘米。"),
            ("The handle is turned from wood.", "木质手柄。"),
        ),
    ),
    "hat": ProductType(
        "accessories", ("hat",), ("wool", "straw", "cotton", "suede"), 29, 0.45,
        (("the beach", "海滩"), ("sunny terraces", "阳光露台"), ("garden work", "园艺")),
        (
            ("The inner band can be adjusted.", "内圈可调节。"),
            ("The brim keeps its shape, even when packed.", "帽檐不易变形，便于携带。"),
            ("The band can be taken off.", "帽带可拆卸。"),
        ),
    ),
}  # fmt: skip

# Some come close to one another: navy and black, maroon and red, beige and white, teal and green.
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "black": (32, 32, 36),
    "white": (242, 241, 238),
    "beige": (216, 194, 148),
    "brown": (110, 68, 34),
    "orange": (236, 122, 34),
    "red": (214, 34, 34),
    "maroon": (104, 14, 44),
    "pink": (244, 142, 184),
    "purple": (118, 62, 156),
    "navy blue": (24, 34, 92),
    "blue": (48, 112, 220),
    "teal": (0, 128, 138),
    "green": (62, 146, 48),
}

# Pattern -> share of the products.
PATTERNS: Mapping[str, float] = {"plain": 0.5, "striped": 0.16, "dotted": 0.12, "checked": 0.14, "floral": 0.08}

BRANDS = (
    "Alderway", "Brindle & Co", "Casa Lumen", "Dovetail", "Everfold", "Fennimore", "Greyharbor", "Hollis", "Ivorline",
    "Juniper Lane", "Kestrel", "Larkhill", "Marlowe", "Northmere", "Oakenfield", "Pell & Rowan", "Quillon", "Rivermoor",
    "Sable Street", "Thornby", "Umbra Vale", "Vantero", "Westbrook", "Yarrow",
)  # fmt: skip
