"""The prompts that a text encoder's reference statistics are measured on: written for this project, so that they are
free to use with it. Captions as people type them into an image generator: from one word to a paragraph, in English and
in Chinese (the two languages that Z-Image has been made for), of every kind of subject and style."""

from __future__ import annotations

SHORT = (
    "A photo of a cat",
    "a red apple",
    "mountains",
    "An old wooden door",
    "a bowl of ramen",
    "Two children flying a kite",
    "sunset over the sea",
    "Portrait of a young woman",
    "a yellow taxi in the rain",
    "A robot reading a newspaper",
    "a vase of tulips on a windowsill",
    "steam locomotive",
    "A minimal line drawing of a bicycle",
    "pixel art castle",
    "a dog wearing sunglasses",
    "An empty swimming pool at night",
    "a stack of pancakes with butter",
    "black and white photo of a jazz trumpet player",
    "a neon sign that says OPEN",
    "Logo of a fox, flat design",
    "a glass of water on a table",
    "medieval map of an island",
    "A snowman with a green scarf",
    "an owl, linocut print",
    "isometric bedroom, soft colors",
    "a lighthouse",
    "wedding cake with blue flowers",
    "a football stadium seen from above",
)
MEDIUM = (
    "A red apple on a wooden table, soft window light",
    "Portrait of an old fisherman with a grey beard, shallow depth of field",
    "Watercolor painting of a lighthouse on a cliff above a stormy sea",
    "Isometric 3D render of a tiny coffee shop, pastel colors, studio lighting",
    "An astronaut riding a horse through a field of sunflowers, cinematic wide shot, golden hour",
    "A busy street in Tokyo at night, neon signs reflected in the wet asphalt, people with umbrellas",
    "Macro photograph of a dragonfly covered in morning dew, dark green background, extremely detailed wings",
    "Oil painting in the manner of the Dutch masters: lemons, oysters and a silver cup on a dark cloth",
    "A ginger cat asleep on a pile of books beside a radiator, warm evening light, 35mm film grain",
    "Product photo of a matte black wristwatch on grey stone, one hard light from the left, long shadow",
    "Anime style, a girl with short blue hair waits at a railway crossing in summer, clouds piling up behind her",
    "Aerial view of a river delta at low tide, braided channels in ochre and turquoise, no people",
    "Low poly desert with a single cactus and two moons, purple sky, game asset",
    "A chef throws noodles into a flaming wok, motion blur on the flames, the face sharp, kitchen in the dark",
    "Vintage travel poster for a mountain railway, bold shapes, four colors, the words HIGH LINE at the bottom",
    "A polar bear stands on its hind legs and looks over a snow drift, overcast, telephoto lens",
    "Concept art of a floating market on a canal between stilt houses, lanterns, rain, muted palette",
    "Close-up of an elderly potter's hands shaping a bowl on the wheel, wet clay, side light",
    "Cutaway illustration of a submarine with tiny crew members in every room, labelled, ink and wash",
    "A brutalist library with trees growing through its atrium, sunbeams, one reader on the stairs",
    "A bride and groom run through rice being thrown, laughing, the guests blurred, candid wedding photo",
    "Knitted toy elephant with button eyes on a white shelf, soft shadows, pastel wall",
    "An abandoned amusement park overgrown with ivy, a ferris wheel in the fog, desaturated colors",
    "Infrared photograph of a park with white trees and a black lake, two swans",
    "Renaissance portrait of a corgi in a velvet doublet with a ruff, craquelure, dark background",
    "A racing cyclist climbs a hairpin bend in heavy rain, water flying from the wheels, seen from below",
    "Paper cut-out scene of a forest with deer in seven layers, lit from behind, warm gradient",
    "A cyberpunk courier on a motorbike under an elevated highway, magenta and cyan light, shallow focus",
    "Children's book illustration: a mouse sails a walnut shell across a puddle, gouache, visible brush strokes",
    "A scientist in a white coat looks through a microscope, green light from a monitor on her face",
    "Long exposure of a waterfall between basalt columns, moss, silky water, tripod shot",
    "A still from a 1970s science fiction film: a corridor of white plastic, orange doors, a lone figure",
)
LONG = (
    "The interior of a gothic cathedral, sunbeams through stained glass, a single figure walking between the "
    "columns, dust in the air. The camera stands low on the stone floor, so that the vault fills the upper half of "
    "the picture; the colors of the glass lie on the pillars in red and blue patches. Wide angle, quiet, solemn, "
    "highly detailed.",
    "A wide shot of a small harbour town in the early morning. Fishing boats in faded red, green and white lie at "
    "the quay, nets are spread out to dry, and a woman in a yellow raincoat carries a crate of fish towards an open"
    " door. Gulls circle over the roofs. The light is pale and comes from the right; fog still covers the hills "
    "behind the church tower. Realistic photograph, natural colors, fine detail in the ropes and in the wet stones.",
    "An elaborate fantasy scene: a library inside a hollow tree of enormous size. Spiral staircases of living wood "
    "wind past thousands of books, glowing mushrooms serve as lamps, and small winged creatures carry scrolls from "
    "one shelf to another. In the foreground an old woman with a long silver braid sits at a desk made of roots and"
    " writes with a feather. Digital painting, warm amber light against deep green shadows, depth, intricate "
    "detail.",
    "Studio photograph of a breakfast table from directly above: two plates with fried eggs and toast, a blue "
    "enamel pot of coffee, a glass jar of honey with a wooden dipper, half a grapefruit, a folded newspaper and a "
    "pair of reading glasses. White linen cloth with one coffee stain at the upper left. Even daylight, crisp "
    "shadows, editorial food photography.",
    "A cinematic still of a tense chess game in a smoky cafe in the nineteen thirties. The man on the left, in a "
    "pinstripe suit, rests his chin on his fist; the woman opposite, with a cloche hat and a cigarette holder, has "
    "just moved her queen and smiles. Spectators crowd behind them, out of focus. A single lamp hangs over the "
    "board. Sepia and dark green, anamorphic lens, film grain.",
    "Technical illustration of a wind turbine, shown whole at the left and in a magnified cutaway of its nacelle at"
    " the right: gearbox, generator, brake, yaw drive and cooling are colored differently and numbered from 1 to 5."
    " Thin black lines, white background, a small legend below in a sans-serif typeface, no shadows.",
    "A girl of about ten in a red coat stands in a snowy forest and holds out her hand to a fox. The fox is two "
    "steps away, one paw lifted, undecided. Tall dark trunks frame the two; far behind them, between the trees, "
    "glows the window of a cabin. Blue dusk, snow falling slowly, breath visible in the cold. Painterly, soft "
    "edges, a mood between fear and trust.",
    "Architectural visualization of a house on a steep slope above a lake: raw concrete, larch wood and wide panes "
    "of glass, a cantilevered terrace with a narrow pool, gravel and grasses around it. Late afternoon, low sun "
    "from behind the camera, the interior lights already on, mountains reflected in the water. Photorealistic, 28mm"
    " lens, straight verticals.",
    "A crowded night market drawn as a comic panel. In front, a boy with a skateboard under his arm counts his "
    "coins before a stall of grilled squid; the cook, huge, tattooed and cheerful, leans over the counter. Paper "
    "lanterns, steam, hand-painted signs, a cat under the table. A speech balloon says: Only three left! Bold ink "
    "outlines, halftone shading, limited palette of orange, teal and cream.",
    "Extreme close-up of a human eye in which a burning skyline is reflected. Every lash is sharp; the iris is grey"
    " with a ring of amber, the skin around it dusty and wet with tears. The reflection shows high-rise buildings, "
    "columns of smoke and one small helicopter. Dramatic, cold colors in the skin, hot colors in the reflection, "
    "100mm macro lens.",
    "A cheerful group photograph of a village brass band, twenty-three people in three rows on the steps of a town "
    "hall. They wear dark green jackets with silver buttons and hold their instruments: tubas at the back, "
    "clarinets in front, a drum with the year 1921 on it in the middle. Some squint in the sun, one child has "
    "turned away. Slightly faded colors, as from a print of the eighties.",
    "Macro view into a mechanical watch: brass wheels, a blued spiral spring, ruby bearings and polished screws, "
    "arranged so that the balance wheel is in the center and sharp while everything else falls out of focus. Tiny "
    "scratches and a speck of dust are visible. Light from a softbox above, black background, reflections "
    "controlled.",
)
SHORT_CHINESE = (
    "一只猫",
    "红苹果",
    "雪山日出",
    "一碗牛肉面",
    "雨中的小巷",
    "穿汉服的少女",
    "水墨画，竹林",
    "一辆黄色出租车",
    "桌上的一杯茶",
    "可爱的熊猫宝宝",
    "夜晚的上海外滩",
    "木头做的小火车",
    "荷花池边的白鹭",
    "一张老人的肖像照片",
    "像素风格的城堡",
    "写着“春”字的红灯笼",
    "海边的灯塔",
    "戴墨镜的柴犬",
    "一束向日葵",
    "剪纸风格的龙",
    "空无一人的地铁站",
    "青花瓷花瓶",
    "宇航员在月球上骑自行车",
    "秋天的银杏树",
)
LONG_CHINESE = (
    "傍晚的江南水乡，小桥流水，乌篷船缓缓划过，岸边的灯笼刚刚点亮，水面倒映着白墙黑瓦，薄雾弥漫，电影感构图",
    "一位满头白发的老木匠在光线昏暗的作坊里刨木头，木屑在窗口射进来的光柱中飞舞，浅景深，细节丰富，真实摄影",
    "微距摄影，一只停在荷叶上的蜻蜓，翅膀上挂满晨露，背景是柔和的绿色虚化，画面干净，色彩清透",
    "未来城市的夜景，高楼之间飞行汽车来回穿梭，巨大的全息广告牌映照在潮湿的街道上，青色和品红色的霓虹灯光",
    "国画风格，远山层叠，云雾缭绕，近处一棵苍劲的古松，松下两位老人对弈，留白处题有四个字“高山流水”",
    "俯拍早餐桌：两根油条、一碗豆浆、一碟咸菜、半个切开的咸鸭蛋，木质桌面，自然光从左侧照进来，生活气息浓厚",
    "动漫风格，短发女孩站在学校天台上，风吹起她的校服裙摆，身后是巨大的积雨云和蓝天，逆光，清新的夏日氛围",
    "黑白纪实照片，火车站台上依依惜别的一家人，母亲伸手整理儿子的衣领，旁边的小女孩抱着布娃娃看向镜头，颗粒感明显",
    "等距视角的三维微缩场景，一家小小的书店，书架、台灯、楼梯和一只睡觉的橘猫都清晰可见，柔和的粉彩色调，工作室灯光",
    "产品摄影，一瓶透明的香水放在黑色大理石上，周围散落着几片白色花瓣，侧面硬光，水珠清晰，高级质感，背景渐变为深灰",
    "敦煌壁画风格的飞天仙女，衣带飘舞，手持琵琶，四周环绕祥云和莲花，颜料斑驳剥落，矿物颜料的青绿与赭红，横幅构图",
    "航拍梯田，清晨的阳光照在灌满水的田里，像一块块破碎的镜子，几个戴斗笠的农民赶着水牛走在田埂上，远处村庄炊烟袅袅",
    "一张儿童绘本插图：小老鼠坐在核桃壳做的船里，用一片树叶当帆，漂过雨后的水洼，水彩画法，笔触可见，颜色温暖明亮，"
    "画面左上角留出一块空白，可以放下一段简短的文字",
    "废弃的游乐园被藤蔓覆盖，生锈的摩天轮在浓雾中若隐若现，一匹掉了漆的旋转木马倒在前景的草丛里，低饱和度，"
    "冷色调，寂静而略带忧伤的气氛，广角镜头，细节精致",
    "一间堆满旧书的二手书店内部，午后的阳光透过满是灰尘的橱窗斜射进来，戴圆框眼镜的店主坐在梯子上翻看一本画册，"
    "收音机放在柜台上，墙上挂着一九八五年的日历，胶片质感，暖黄色调，景深较浅",
    "武侠电影剧照：竹林之上，两位剑客踩着竹梢对峙，一人白衣，一人黑衣，竹叶随着剑气四散飞落。镜头从低处仰拍，"
    "阳光从竹叶的缝隙间漏下来，形成一道道光束。动作凝固在出剑前的一瞬间，张力十足，画面以翠绿色为主",
    "厨房里，年轻的父亲正在教女儿包饺子，桌上撒满面粉，几排包好的饺子整齐地摆在竹盖帘上，锅里的水冒着热气。"
    "女孩鼻尖上沾着一点面粉，笑得眼睛眯成一条缝。窗外正在下雪，室内灯光温暖，写实风格，家庭纪念照的感觉",
)
REFERENCE_PROMPTS = (*SHORT, *MEDIUM, *LONG, *SHORT_CHINESE, *LONG_CHINESE)
